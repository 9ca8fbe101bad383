/* chaos KIND [BYTES]: twenty threads that check themselves, and each count their rounds behind the state.
 *
 * steady    computes, waits in poll, on a condition and in a pipe, checks its memory, its descriptors and its children
 * shifting  beside that threads map, unmap, move and protect memory, fork, and end
 * writing   as steady, and writes to all of its memory again and again, what was there before
 * SIGUSR1 lets it start itself anew by exec, SIGUSR2 end with status 7 (TARGET_SIGNALS=default).
 */
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sys/wait.h>

enum { THREADS = 20, BLOCK = 1 << 16 };

static char *program, *kind;
static uint64_t *area, *diary;
static size_t area_bytes = 8 << 20;

static volatile uint64_t *rounds(uintptr_t number)
{
    return (volatile uint64_t *)((char *)state + 2048) + number;
}

static void fail(const char *what)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "chaos: %s: %m\n", what);
}

static void rest(long microseconds)
{
    struct timespec pause = {0, microseconds * 1000};
    nanosleep(&pause, NULL);
}

/* Sums in integers and in floating point, of which the end is known. */
static void compute(void)
{
    uint64_t whole = 0;
    double real = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        whole = whole * 6364136223846793005UL + i;
        real += 0.5 * i;
        __asm__ volatile("" : "+r"(whole), "+x"(real));
    }
    static uint64_t first;
    uint64_t expected = 0;
    if (!__atomic_compare_exchange_n(&first, &expected, whole, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) &&
        expected != whole)
        fail("an integer sum is wrong");
    if (real != 0.5 * 1999 * 1000)
        fail("a floating-point sum is wrong");
}

static void wait_in_poll(void)
{
    if (poll(NULL, 0, 2) < 0 && errno != EINTR)
        fail("poll");
}

static void wait_on_condition(void)
{
    static __thread pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static __thread pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 2000000;
    if (until.tv_nsec >= 1000000000)
        until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&mutex);
    if (pthread_cond_timedwait(&condition, &mutex, &until) != ETIMEDOUT)
        fail("a condition came true");
    pthread_mutex_unlock(&mutex);
}

static void pass_through_pipe(uint64_t round)
{
    static __thread int ends[2];
    uint64_t back = 0;
    if (!ends[1] && pipe(ends))
        die("pipe");
    if (write(ends[1], &round, sizeof round) != sizeof round || read(ends[0], &back, sizeof back) != sizeof back)
        fail("a pipe");
    if (back != round)
        fail("a pipe gave another number");
    rest(2000);
}

/* A block of the memory that never changes, and every page of the one that changes all the time. */
static void check_memory(uint64_t round)
{
    size_t words = BLOCK / 8, first = round * words % (area_bytes / 8);
    for (size_t i = first; i < first + words; i++)
        if (area[i] != pattern_word(i)) {
            fail("memory changed");
            break;
        }
    if (!strcmp(kind, "writing"))
        for (size_t i = first; i < first + words; i += PAGE / 8)
            *(volatile uint64_t *)&area[i] = pattern_word(i);
    for (size_t page = 0; page < 256; page++)
        if (diary[page * PAGE / 8]++ != round)
            fail("a page lost what was written to it");
    rest(1000);
}

static void shift(uint64_t round, uintptr_t number)
{
    size_t bytes = PAGE << (round % 9);
    char *map = map_anonymous(bytes, PROT_READ | PROT_WRITE, round % 3 ? MAP_PRIVATE : MAP_SHARED);
    memset(map, (int)number, bytes);
    if (round % 4 == 1 && mprotect(map, bytes, round % 8 == 1 ? PROT_NONE : PROT_READ))
        fail("mprotect");
    if (round % 4 == 2) {
        char *moved = mremap(map, bytes, 2 * bytes, MREMAP_MAYMOVE);
        if (moved == MAP_FAILED)
            die("mremap");
        map = moved, bytes *= 2;
        if (map[0] != (char)number || map[bytes / 2 - 1] != (char)number)
            fail("moved memory changed");
    }
    rest(500);
    if (munmap(map, bytes))
        fail("munmap");
}

static void fork_once(void)
{
    pid_t child = fork();
    if (!child)
        _exit(3);
    int status = 0;
    pid_t ended;
    while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR)
        ;
    if (child < 0 || ended != child || status != 3 << 8)
        fail("a child");
    rest(5000);
}

static void *unneeded(void *nothing)
{
    return nothing;
}

static void thread_once(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, unneeded, NULL) || pthread_join(thread, NULL))
        fail("a thread");
    rest(1000);
}

static int count_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        die("/proc/self/fd");
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

static void *work(void *argument)
{
    uintptr_t number = (uintptr_t)argument;
    int shifting = !strcmp(kind, "shifting");
    for (uint64_t round = 0;; round++) {
        compute();
        if (shifting && number >= 12 && number < 16)
            shift(round, number);
        else if (shifting && number == 16)
            fork_once();
        else if (shifting && number == 17)
            thread_once();
        else if (number == 1)
            check_memory(round);
        else if (number % 4 == 0)
            wait_in_poll();
        else if (number % 4 == 1)
            wait_on_condition();
        else if (number % 4 == 2)
            pass_through_pipe(round);
        else
            rest(2000);
        ++*rounds(number);
    }
    return NULL;
}

static void watch(void)
{
    int shifting = !strcmp(kind, "shifting"), descriptors = count_descriptors();
    for (;; rest(1000)) {
        if (!shifting && waitpid(-1, NULL, WNOHANG) >= 0)
            fail("there is a child");
        if (count_descriptors() != descriptors)
            fail("there are other descriptors");
        ++*rounds(0);
        __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
    }
}

static void start_anew(int number)
{
    (void)number;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execl(program, program, kind, "again", NULL);
    _exit(99);
}

static void end(int number)
{
    (void)number;
    _exit(7);
}

int main(int count, char **arguments)
{
    static char path[4096];
    int again = count > 2 && !strcmp(arguments[2], "again");
    program = path;
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0)
        die("/proc/self/exe");
    kind = count > 1 ? arguments[1] : "steady";
    if (count > 2 && !again)
        area_bytes = strtoul(arguments[2], NULL, 0) / BLOCK * BLOCK;
    target_begin();
    if (!strcmp(getenv("TARGET_SIGNALS"), "default"))
        signal(SIGUSR1, start_anew), signal(SIGUSR2, end);
    area = map_anonymous(area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, area_bytes);
    diary = map_anonymous(256 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (uintptr_t number = 1; number < THREADS; number++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)number))
            die("pthread_create");
    }
    for (uintptr_t number = 1; number < THREADS; number++)
        while (!*rounds(number))
            rest(1000); /* by now all descriptors are open */
    fact("area=%p\narea_bytes=%zu\n", (void *)area, area_bytes);
    if (!again)
        target_ready();
    watch();
}
