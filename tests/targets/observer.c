/* observer KIND: watches for what a dump might leave behind, and counts each trace as a failure.
 *
 * calls    threads that make short calls with timeouts: none may return early or with EINTR
 * children [restart] forks children that end, with a SIGCHLD handler, and waits for any child: no stranger may turn up
 * alarm    SIGALRM a thousand times a second: a read that ends with EINTR must have been interrupted by the handler
 */
#include "target.h"

#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

static volatile int finish; /* SIGUSR2: come to an end, so that the sums can be compared */

static void fail(const char *what)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "observer: %s (%s)\n", what, strerror(errno));
}

static void beat(void)
{
    __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
}

static void on_finish(int number)
{
    (void)number;
    finish = 1;
}

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

static pthread_barrier_t all_there;

/* calls ---------------------------------------------------------------------------------------------------------- */

static void *in_poll(void *unused)
{
    int event = eventfd(0, 0);
    pthread_barrier_wait(&all_there);
    for (;;) {
        struct pollfd wanted = {event, POLLIN, 0};
        if (poll(&wanted, 1, 7))
            fail("poll");
    }
    return unused;
}

static void *in_epoll(void *unused)
{
    int epoll = epoll_create1(0);
    pthread_barrier_wait(&all_there);
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, 7))
            fail("epoll_wait");
    }
    return unused;
}

static void *in_futex(void *unused)
{
    static int word;
    pthread_barrier_wait(&all_there);
    for (;;) {
        struct timespec limit = {0, 7000000};
        if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0) != -1 || errno != ETIMEDOUT)
            fail("futex");
    }
    return unused;
}

static void *in_nanosleep(void *unused)
{
    pthread_barrier_wait(&all_there);
    for (;;) {
        struct timespec limit = {0, 7000000};
        if (nanosleep(&limit, NULL))
            fail("nanosleep");
    }
    return unused;
}

static void *in_recv(void *unused)
{
    int pair[2];
    struct timeval limit = {0, 8000};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        die("socketpair");
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    pthread_barrier_wait(&all_there);
    for (;;) {
        char byte;
        if (recv(pair[0], &byte, 1, 0) != -1 || errno != EAGAIN)
            fail("recv");
    }
    return unused;
}

static void *in_accept(void *unused)
{
    struct timeval limit = {0, 8000};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
        die("listen");
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    pthread_barrier_wait(&all_there);
    for (;;)
        if (accept(listener, NULL, NULL) != -1 || errno != EAGAIN)
            fail("accept");
    return unused;
}

static int pipe_ends[2];

static void *in_read(void *unused)
{
    pthread_barrier_wait(&all_there);
    for (uint64_t expected = 0;; expected++) {
        uint64_t number;
        if (read(pipe_ends[0], &number, sizeof number) != sizeof number || number != expected)
            fail("read");
    }
    return unused;
}

static void *in_write(void *unused)
{
    pthread_barrier_wait(&all_there);
    for (uint64_t number = 0;; number++) {
        struct timespec limit = {0, 3000000};
        if (write(pipe_ends[1], &number, sizeof number) != sizeof number)
            fail("write");
        nanosleep(&limit, NULL);
    }
    return unused;
}

static void calls(void)
{
    void *(*bodies[])(void *) = {in_poll, in_epoll, in_futex, in_nanosleep, in_recv, in_accept, in_read, in_write};
    if (pipe(pipe_ends))
        die("pipe");
    pthread_barrier_init(&all_there, NULL, 1 + sizeof bodies / sizeof *bodies);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, bodies[i], NULL))
            die("pthread_create");
    }
    pthread_barrier_wait(&all_there);
    target_ready();
    beat_forever();
}

/* children ------------------------------------------------------------------------------------------------------- */

static volatile uint64_t sigchlds;

static void on_child(int number)
{
    (void)number;
    sigchlds++;
}

static void children(int flags)
{
    uint64_t forked = 0, reaped = 0;
    handle(SIGCHLD, on_child, flags);
    target_ready();
    while (!finish) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (!child)
            _exit(7);
        forked++;
        for (;;) {
            int status;
            pid_t ended = waitpid(-1, &status, 0);
            if (ended == -1 && errno == EINTR && !(flags & SA_RESTART))
                continue;
            if (ended != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
                fail("a stranger among the children");
            else
                reaped++;
            break;
        }
        if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
            fail("a child too many");
        beat();
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
    }
    if (reaped != forked || sigchlds != forked)
        fail("the sums differ");
    state->signals[SIGCHLD] = forked;
    _exit(0);
}

/* alarm ---------------------------------------------------------------------------------------------------------- */

static volatile uint64_t alarms;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
    beat();
}

static void alarms_forever(void)
{
    int event = eventfd(0, 0);
    struct itimerval period = {{0, 1000}, {0, 1000}};
    handle(SIGALRM, on_alarm, 0);
    setitimer(ITIMER_REAL, &period, NULL);
    target_ready();
    for (;;) {
        uint64_t before = alarms, value;
        if (read(event, &value, sizeof value) != -1 || errno != EINTR)
            fail("read");
        else if (alarms == before)
            fail("an EINTR without an alarm");
    }
}

int main(int count, char **arguments)
{
    const char *kind = count > 1 ? arguments[1] : "calls";
    target_begin();
    handle(SIGUSR2, on_finish, SA_RESTART);
    if (!strcmp(kind, "children"))
        children(count > 2 ? SA_RESTART : 0);
    if (!strcmp(kind, "alarm"))
        alarms_forever();
    calls();
}
