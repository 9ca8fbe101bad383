/* strays KIND: one thread is not like the process that /proc/PID tells of.
 *
 * newpid  children would be born into another pid namespace
 * worker  a worker thread has a seccomp filter that kills on clone; it sleeps in poll, the main thread in nanosleep
 */
#include "target.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>

static pthread_barrier_t filtered;

static void *worker(void *unused)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        die("seccomp");
    pthread_barrier_wait(&filtered);
    for (;;)
        poll(NULL, 0, -1);
    return unused;
}

int main(int count, char **arguments)
{
    target_begin();
    if (count > 1 && !strcmp(arguments[1], "newpid")) {
        if (unshare(CLONE_NEWPID))
            die("unshare");
    } else {
        pthread_t thread;
        pthread_barrier_init(&filtered, NULL, 2);
        if (pthread_create(&thread, NULL, worker, NULL))
            die("pthread_create");
        pthread_barrier_wait(&filtered);
    }
    target_ready();
    beat_forever();
}
