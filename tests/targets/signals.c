/* signals pending|storm: what is sent arrives once and in order, whatever stops the process in between.
 *
 * pending  two threads with blocked signals: some sent to the process, some to a thread, real-time ones queued with
 *          values from 1 on. SIGTERM opens the masks.
 * storm    one thread, which takes SIGRTMIN+5 with values 1, 2, 3 ... from outside at any time
 */
#include "target.h"

#include <sys/syscall.h>

#define QUEUED 40
#define TO_PROCESS (SIGRTMIN + 3)
#define TO_THREAD (SIGRTMIN + 4)
#define STORM (SIGRTMIN + 5)

static volatile sig_atomic_t open_all;
static pthread_barrier_t all_sent;
static __thread int last[65];

static void fail(const char *what, int number, int value)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "signals: %s (signal %d, value %d)\n", what, number, value);
}

static void on_queued(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code != SI_QUEUE || info->si_value.sival_int != ++last[number])
        fail("lost, doubled, or out of order", number, info->si_value.sival_int);
    count_signal(number);
}

static void on_open(int number)
{
    open_all = 1;
    count_signal(number);
}

static void queue(int number, pthread_t *thread)
{
    for (int i = 1; i <= QUEUED; i++) {
        union sigval value = {.sival_int = i};
        if (thread ? pthread_sigqueue(*thread, number, value) : sigqueue(getpid(), number, value))
            die("sigqueue");
    }
}

static void mask(int how, int for_process)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, TO_THREAD);
    if (for_process) {
        sigaddset(&set, SIGUSR1);
        sigaddset(&set, TO_PROCESS);
    }
    pthread_sigmask(how, &set, NULL);
}

static void wait_for_open(void)
{
    struct timespec pause = {0, 1000000};
    while (!open_all) {
        __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
        nanosleep(&pause, NULL);
    }
}

static void *other(void *unused)
{
    pthread_t self = pthread_self();
    pthread_kill(self, SIGUSR2);
    queue(TO_THREAD, &self);
    pthread_barrier_wait(&all_sent);
    wait_for_open();
    mask(SIG_UNBLOCK, 0); /* those for the process stay the first thread's */
    for (;;)
        pause();
    return unused;
}

int main(int count, char **arguments)
{
    target_begin();
    struct sigaction action = {.sa_sigaction = on_queued, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    for (int number = TO_PROCESS; number <= STORM; number++)
        sigaction(number, &action, NULL);
    fact("storm=%d\nto_process=%d\nto_thread=%d\n", STORM, TO_PROCESS, TO_THREAD);
    char *area = map_anonymous(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, 16 * PAGE);
    fact("area=%p\n", (void *)area);
    if (count > 1 && !strcmp(arguments[1], "storm")) {
        target_ready();
        for (;;)
            state->counter++;
    }
    struct sigaction opening = {.sa_handler = on_open};
    sigaction(SIGTERM, &opening, NULL);
    mask(SIG_BLOCK, 1);
    pthread_t thread, self = pthread_self();
    pthread_barrier_init(&all_sent, NULL, 2);
    if (pthread_create(&thread, NULL, other, NULL))
        die("pthread_create");
    pthread_kill(self, SIGUSR2);
    kill(getpid(), SIGUSR1);
    queue(TO_PROCESS, NULL);
    queue(TO_THREAD, &self);
    pthread_barrier_wait(&all_sent);
    target_ready();
    wait_for_open();
    mask(SIG_UNBLOCK, 1);
    beat_forever();
}
