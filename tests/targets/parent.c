/* parent SIGCHLD [subreaper] [busy]: a process that would notice any child that is not its own.
 *
 * handler  catches SIGCHLD and counts it
 * default, ignore  the dispositions of that name
 * signalfd SIGCHLD is blocked; whatever comes out of a signalfd is counted
 * busy     children of its own end all the time, each must be told by a SIGCHLD: one that is lost ends the counting
 * Without busy every child that waitpid finds is a failure, with it every one that is not the last one forked.
 */
#include "target.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

static volatile sig_atomic_t told;
static int descriptor = -1;

static void on_child(int number)
{
    count_signal(number);
    told = 1;
}

static void fail(const char *what)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "parent: %s\n", what);
}

static void read_signalfd(void)
{
    struct signalfd_siginfo info;
    while (read(descriptor, &info, sizeof info) == sizeof info) {
        count_signal((int)info.ssi_signo);
        told = 1;
    }
}

static void look_for_children(void)
{
    for (int all = 0; all < 2; all++) {
        pid_t pid = waitpid(-1, NULL, WNOHANG | (all ? __WALL : 0));
        if (pid == 0 && getpid() == 1)
            continue; /* the copy, which an init has as a child while it is read */
        if (pid != -1 || errno != ECHILD)
            fail(all ? "a child of clone" : "a child");
    }
}

/* Forks, waits until it is told, reaps. SIGCHLD is blocked but for sigsuspend. */
static void one_child(const sigset_t *open)
{
    told = 0;
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        struct timespec life = {0, (long)(state->counter * 7919 % 3000 * 1000)};
        nanosleep(&life, NULL);
        _exit(7);
    }
    while (!told) {
        struct timespec pause = {0, 100000};
        if (descriptor >= 0) {
            read_signalfd();
            nanosleep(&pause, NULL);
        } else {
            sigsuspend(open);
        }
    }
    int status = 0;
    if (waitpid(-1, &status, WNOHANG) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
        fail("another child than ours, or none");
    state->counter++;
}

int main(int count, char **arguments)
{
    const char *kind = count > 1 ? arguments[1] : "handler";
    int busy = 0;
    target_begin();
    for (int i = 2; i < count; i++) {
        if (!strcmp(arguments[i], "subreaper") && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
            die("subreaper");
        busy |= !strcmp(arguments[i], "busy");
    }
    struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
    if (!strcmp(kind, "default"))
        action.sa_handler = SIG_DFL;
    if (!strcmp(kind, "ignore"))
        action.sa_handler = SIG_IGN;
    sigaction(SIGCHLD, &action, NULL);
    sigset_t set, open;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (busy || !strcmp(kind, "signalfd"))
        sigprocmask(SIG_BLOCK, &set, &open);
    if (!strcmp(kind, "signalfd")) {
        descriptor = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
        if (descriptor < 0)
            die("signalfd");
    }
    char *area = map_anonymous(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, 4 * PAGE);
    fact("area=%p\nseen_pid=%d\nready\n", (void *)area, getpid()); /* unshare keeps the descriptor open */
    target_ready();
    for (;;) {
        struct timespec pause = {0, 200000};
        if (busy) {
            one_child(&open);
            continue;
        }
        look_for_children();
        if (descriptor >= 0)
            read_signalfd();
        state->counter++;
        nanosleep(&pause, NULL);
    }
}
