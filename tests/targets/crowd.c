/* crowd THREADS: all but the first sleep in a read for a number of bytes of its own, with words of its own.
 *
 * SIGUSR1 wakes them all: each checks what it got and what it holds, and ends. Builds with any C library.
 */
#include "target.h"

#include <sys/eventfd.h>
#include <sys/syscall.h>

#define FIRST_COUNT 8L /* what an eventfd wants at least */

uint64_t known_value = 0x5eed5eed5eed5eedUL; /* told from outside by its symbol */
static __thread uint64_t mark[2];
static int event;
static uint64_t sleepers;
static pthread_barrier_t all_there;

static void fail(const char *what)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "crowd: %s\n", what);
}

__attribute__((noinline)) static void *sleep_in_read(void *argument)
{
    uint64_t index = (uintptr_t)argument;
    union {
        uint64_t value;
        char bytes[8192];
    } got;
    mark[0] = pattern_word(index);
    mark[1] = (uint64_t)syscall(SYS_gettid);
    if (index == 1)
        fact("mark_offset=%ld\n", (long)((char *)mark - (char *)__builtin_thread_pointer()));
    pthread_barrier_wait(&all_there);
    if (syscall(SYS_read, event, got.bytes, FIRST_COUNT + index) != 8 || got.value != 1)
        fail("read");
    if (mark[0] != pattern_word(index) || mark[1] != (uint64_t)syscall(SYS_gettid))
        fail("mark");
    return NULL;
}

static void wake(int number)
{
    (void)number;
    if (write(event, &sleepers, sizeof sleepers) != sizeof sleepers)
        fail("write");
}

int main(int count, char **arguments)
{
    pthread_attr_t attributes;
    target_begin();
    sleepers = (count > 1 ? strtoul(arguments[1], NULL, 0) : 4) - 1;
    char *area = map_anonymous(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, 16 * PAGE);
    event = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    pthread_barrier_init(&all_there, NULL, sleepers + 1);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (uintptr_t i = 1; i <= sleepers; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, sleep_in_read, (void *)i))
            die("pthread_create");
    }
    struct sigaction action = {.sa_handler = wake, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    pthread_barrier_wait(&all_there);
    fact("area=%p\nknown_value=%p\nseen_pid=%d\nready\n", (void *)area, (void *)&known_value, getpid());
    target_ready();
    beat_forever();
}
