/* A process to be dumped that measures its own standstill.
 *
 * beating MIB THREADS small|huge BEAT_US [writer]
 *
 * MIB of private memory are filled with words of which no two are alike. Of THREADS threads the first obeys, the
 * others sleep in a futex; one more, the heart, looks at the clock every BEAT_US microseconds (0: all the time) and
 * notes the gaps it sees. With "writer" one more increments words in random pages, and the heart notes the count.
 *
 * Prints "ready ADDRESS BYTES"; then obeys lines on standard input:
 *   touch    write to every page, so that the next fork finds it as a busy process would      -> ok
 *   fork     fork() once, the child ends at once                                              -> nanoseconds of the call
 *   reset    forget gaps and samples                                                          -> ok
 *   gaps     lines "BEGIN END" (CLOCK_MONOTONIC ns) of what was longer than a beat ought to be -> then "end"
 *   samples  lines "TIME COUNT" of the writer                                                 -> then "end"
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define HUGE_PAGE (2UL << 20)
#define NOTES (1UL << 18)
#define GAP_NS 100000UL
#define STACK_BYTES (128UL << 10)

struct note {
    uint64_t first, second;
};

static struct note gaps[NOTES], samples[NOTES];
static volatile uint64_t gap_count, sample_count;
static volatile uint64_t written;
static volatile int forget;
static uint64_t beat_ns;
static int writing;
static uint8_t *area;
static size_t area_bytes;
static pthread_mutex_t never = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t comes = PTHREAD_COND_INITIALIZER;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000UL + (uint64_t)time.tv_nsec;
}

static void note(struct note *notes, volatile uint64_t *count, uint64_t first, uint64_t second)
{
    uint64_t index = *count;
    if (index == NOTES)
        return;
    notes[index] = (struct note){first, second};
    __atomic_store_n(count, index + 1, __ATOMIC_RELEASE);
}

static void *beat(void *unused)
{
    struct timespec pause = {0, (long)beat_ns};
    prctl(PR_SET_TIMERSLACK, 1UL);
    uint64_t last = now();
    for (;;) {
        if (beat_ns)
            nanosleep(&pause, NULL);
        uint64_t time = now();
        if (forget) {
            gap_count = sample_count = 0;
            __atomic_store_n(&forget, 0, __ATOMIC_RELEASE);
        }
        if (time - last > beat_ns + GAP_NS)
            note(gaps, &gap_count, last, time);
        if (writing)
            note(samples, &sample_count, time, written);
        last = time;
    }
    return unused;
}

static void *write_on(void *unused)
{
    uint64_t random = 88172645463325252UL, pages = area_bytes / PAGE;
    for (;;) {
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        uint64_t page = (random >> 32) * pages >> 32;
        ++*(volatile uint64_t *)(area + page * PAGE + (random >> 20 & 0x1FF) * 8);
        written = written + 1;
    }
    return unused;
}

static void *sleep_on(void *unused)
{
    pthread_mutex_lock(&never);
    for (;;)
        pthread_cond_wait(&comes, &never);
    return unused;
}

static void start(void *(*function)(void *))
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (pthread_create(&thread, &attributes, function, NULL))
        die("pthread_create");
}

static void fill(void)
{
    uint64_t *words = (uint64_t *)area;
    for (size_t i = 0; i < area_bytes / 8; i++)
        words[i] = (i + 1) * 0x9E3779B97F4A7C15UL;
}

static void touch(void)
{
    for (size_t offset = 0; offset < area_bytes; offset += PAGE)
        ++*(volatile uint64_t *)(area + offset);
}

static uint64_t timed_fork(void)
{
    uint64_t begun = now();
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    uint64_t ended = now();
    if (child < 0)
        die("fork");
    waitpid(child, NULL, 0);
    return ended - begun;
}

static void print(const struct note *notes, const volatile uint64_t *count)
{
    uint64_t end = __atomic_load_n(count, __ATOMIC_ACQUIRE);
    for (uint64_t index = 0; index < end; index++)
        printf("%lu %lu\n", notes[index].first, notes[index].second);
    printf("end\n");
}

int main(int count, char **words)
{
    if (count < 5)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    area_bytes = strtoul(words[1], NULL, 0) << 20;
    int threads = atoi(words[2]), huge = !strcmp(words[3], "huge");
    beat_ns = strtoul(words[4], NULL, 0) * 1000;
    writing = count > 5;
    uint8_t *room = mmap(NULL, area_bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        die("mmap");
    area = (uint8_t *)(((uintptr_t)room + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (madvise(area, area_bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
        die("madvise");
    fill();
    memset(gaps, 0xFF, sizeof gaps); /* no page of it is to be missing when the clock runs */
    memset(samples, 0xFF, sizeof samples);
    for (int i = 1; i < threads; i++)
        start(sleep_on);
    if (writing)
        start(write_on);
    start(beat);
    printf("ready %lu %zu\n", (unsigned long)area, area_bytes);
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "touch\n")) {
            touch();
            printf("ok\n");
        } else if (!strcmp(line, "fork\n")) {
            printf("%lu\n", timed_fork());
        } else if (!strcmp(line, "reset\n")) {
            __atomic_store_n(&forget, 1, __ATOMIC_RELEASE);
            while (__atomic_load_n(&forget, __ATOMIC_ACQUIRE))
                usleep(1000);
            printf("ok\n");
        } else if (!strcmp(line, "gaps\n")) {
            print(gaps, &gap_count);
        } else if (!strcmp(line, "samples\n")) {
            print(samples, &sample_count);
        } else {
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
