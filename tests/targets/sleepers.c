/* Threads asleep in calls that must not return: each return is a failure. No signal handlers: EINTR would be ours. */
#include "target.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define SECONDS 1000

static int sockets[2];
static pthread_barrier_t all_there;

static void returned(void)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
}

static void *in_epoll_wait(void *unused)
{
    struct epoll_event event;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    pthread_barrier_wait(&all_there);
    epoll_wait(epoll, &event, 1, SECONDS * 1000);
    returned();
    return unused;
}

static void *in_recv(void *unused)
{
    char byte;
    pthread_barrier_wait(&all_there);
    recv(sockets[0], &byte, 1, 0);
    returned();
    return unused;
}

static void *in_poll(void *unused)
{
    struct pollfd wanted = {sockets[0], POLLIN, 0};
    pthread_barrier_wait(&all_there);
    poll(&wanted, 1, SECONDS * 1000);
    returned();
    return unused;
}

static void *in_futex(void *unused)
{
    static int word;
    struct timespec limit = {SECONDS, 0};
    pthread_barrier_wait(&all_there);
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0);
    returned();
    return unused;
}

static void *in_nanosleep(void *unused)
{
    struct timespec limit = {SECONDS, 0};
    pthread_barrier_wait(&all_there);
    nanosleep(&limit, NULL);
    returned();
    return unused;
}

static void *in_read(void *unused)
{
    uint64_t value;
    int event = eventfd(0, EFD_CLOEXEC);
    pthread_barrier_wait(&all_there);
    if (read(event, &value, sizeof value))
        returned();
    return unused;
}

static void *in_inotify_read(void *unused)
{
    char event[4096];
    int queue = inotify_init1(IN_CLOEXEC);
    pthread_barrier_wait(&all_there);
    if (read(queue, event, sizeof event))
        returned();
    return unused;
}

static void *in_sigtimedwait(void *unused)
{
    struct timespec limit = {SECONDS, 0};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_barrier_wait(&all_there);
    sigtimedwait(&set, NULL, &limit);
    returned();
    return unused;
}

int main(void)
{
    void *(*bodies[])(void *) = {in_epoll_wait, in_recv, in_poll, in_futex,
                                 in_nanosleep, in_read, in_inotify_read, in_sigtimedwait};
    int threads = sizeof bodies / sizeof *bodies;
    struct timeval limit = {SECONDS, 0};
    target_begin();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
        die("socketpair");
    setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    pthread_barrier_init(&all_there, NULL, threads + 1);
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, bodies[i], NULL))
            die("pthread_create");
    }
    pthread_barrier_wait(&all_there);
    target_ready();
    beat_forever();
}
