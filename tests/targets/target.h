/* What every target program shares: a state page that the test maps too, signal counters, and the word "ready".
 *
 * TARGET_STATE  path of a file of one page: struct state, mapped shared by target and test
 * TARGET_READY  number of the descriptor for facts ("name=value" lines); closed when the target is ready
 * TARGET_SIGNALS=default  leaves the signals alone; else every catchable signal is caught and counted
 */
#define _GNU_SOURCE
#pragma GCC diagnostic ignored "-Wunused-function" /* no target uses all of this */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

struct state {
    volatile uint64_t counter;     /* moves while the target runs */
    volatile uint64_t failures;    /* what the target itself found wrong */
    volatile uint64_t signals[65]; /* how often each signal was caught */
};

static struct state *state;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void count_signal(int number)
{
    __atomic_fetch_add(&state->signals[number], 1, __ATOMIC_RELAXED);
}

static void target_begin(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* no target outlives the test run */
    int fd = open(getenv("TARGET_STATE"), O_RDWR | O_CLOEXEC);
    if (fd < 0)
        die("TARGET_STATE");
    state = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (state == MAP_FAILED)
        die("mmap state");
    close(fd);
    const char *signals = getenv("TARGET_SIGNALS");
    if (signals && !strcmp(signals, "default"))
        return;
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    for (int number = 1; number <= 64; number++)
        sigaction(number, &action, NULL); /* fails for KILL, STOP and libc's own two */
}

__attribute__((format(printf, 1, 2))) static void fact(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vdprintf(atoi(getenv("TARGET_READY")), format, arguments);
    va_end(arguments);
}

static void target_ready(void)
{
    close(atoi(getenv("TARGET_READY")));
}

__attribute__((noinline)) static void beat_forever(void)
{
    struct timespec pause = {0, 1000000};
    for (;;) {
        __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
        nanosleep(&pause, NULL);
    }
}

/* Word i of every area filled by a target: no two words are alike, at any distance. */
static uint64_t pattern_word(uint64_t i)
{
    return i * 0x9E3779B97F4A7C15UL + 0x1234567;
}

static void fill_pattern(void *area, size_t bytes)
{
    uint64_t *words = area;
    for (size_t i = 0; i < bytes / 8; i++)
        words[i] = pattern_word(i);
}

static void *map_anonymous(size_t bytes, int protection, int flags)
{
    void *area = mmap(NULL, bytes, protection, MAP_ANONYMOUS | flags, -1, 0);
    if (area == MAP_FAILED)
        die("mmap");
    return area;
}
