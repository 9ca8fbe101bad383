/* armed: nine threads and memory with what only a 64-bit Arm machine has. All of it stays as it is told.
 *
 * sve     holds the pattern in z0 to z31, p0 to p15 and FFR, and spins on one instruction
 * neon    holds the pattern in v0 to v31, other words of it in x0 to x30, control registers that are not the usual ones
 * signed  sleeps in read(2), six of them, each in a function of its own, which signs its return address where told to
 * Granules of page n of four have the memory tags 3 + 2n and 4 + 2n by turns (qemu 7.2 keeps two a page), where the
 * machine has tags (MTE); `tagged` is 0 elsewhere.
 */
#include "target.h"

#include "scalable.h"

#include <sys/syscall.h>

#define GRANULE 16UL

static int quiet_pipe[2]; /* nobody ever writes to it */
static pthread_barrier_t all_there;
static struct scalable scalable;
static uint64_t plain[32 * 2 + 32];

static void begin(const char *name)
{
    fact("%s=%d\n", name, gettid());
    pthread_barrier_wait(&all_there);
}

static void *hold_sve(void *unused)
{
    long bytes = fill_scalable(&scalable, 0);
    fact("vector_bytes=%ld\n", bytes);
    begin("sve");
    if (bytes)
        LOAD_SCALABLE(scalable);
    __asm__ volatile("b .");
    return unused;
}

static void *hold_neon(void *unused)
{
    fill_pattern(plain, sizeof plain);
    begin("neon");
    __asm__ volatile("mov x30, 1 << 23\n msr fpcr, x30\n" /* round down */
                     "mov x30, 1 << 27\n msr fpsr, x30\n" /* saturated */
                     "mov x30, %0\n"
                     ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
                     "ldr q\\r, [x30, \\r * 16]\n"
                     ".endr\n"
                     "add x30, x30, 512\n"
                     ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30\n"
                     "ldr x\\r, [x30, \\r * 8]\n"
                     ".endr\n"
                     "b ."
                     :
                     : "r"(plain)
                     : "memory");
    return unused;
}

#define SIGNED(name)                                                                                                   \
    __attribute__((noinline)) void sleep_##name(void)                                                                  \
    {                                                                                                                  \
        char byte;                                                                                                     \
        for (;;)                                                                                                       \
            if (read(quiet_pipe[0], &byte, 1) == 0)                                                                    \
                abort();                                                                                               \
    }                                                                                                                  \
    static void *signed_##name(void *unused)                                                                           \
    {                                                                                                                  \
        (void)unused;                                                                                                  \
        begin(#name);                                                                                                  \
        sleep_##name();                                                                                                \
        return NULL;                                                                                                   \
    }

SIGNED(one)
SIGNED(two)
SIGNED(three)
SIGNED(four)
SIGNED(five)
SIGNED(six)

static void *tagged_pages(void)
{
    if (!(getauxval(AT_HWCAP2) & HWCAP2_MTE) ||
        prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC | 0xfffe << PR_MTE_TAG_SHIFT, 0, 0, 0))
        return NULL;
    char *area = map_anonymous(4 * PAGE, PROT_READ | PROT_WRITE | 0x20 /* PROT_MTE */, MAP_PRIVATE);
    for (uint64_t i = 0; i < 4 * PAGE / GRANULE; i++) {
        uint64_t pointer = (uint64_t)(area + i * GRANULE) | (3 + i / 256 * 2 + i % 2) << 56;
        __asm__ volatile(".arch armv8.5-a+memtag\n stg %0, [%0]" : : "r"(pointer) : "memory");
        *(uint64_t *)pointer = pattern_word(i);
    }
    return area;
}

int main(void)
{
    void *(*bodies[])(void *) = {hold_sve,     hold_neon,   signed_one,  signed_two,
                                 signed_three, signed_four, signed_five, signed_six};
    target_begin();
    fact("tagged=%p\n", tagged_pages()); /* before: the threads take the setting from this one */
    if (pipe(quiet_pipe))
        die("pipe");
    pthread_barrier_init(&all_there, NULL, 9);
    for (int i = 0; i < 8; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, bodies[i], NULL))
            die("pthread_create");
    }
    pthread_barrier_wait(&all_there);
    fact("plain=%p\n", (void *)plain);
    target_ready();
    beat_forever();
}
