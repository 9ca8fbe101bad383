/* checker KIND: a main thread that checks itself while it is copied; the main thread is the one calls are run in.
 *
 * registers  spins with a pattern in general, AVX and SSE control registers, and compares them
 * sleep      sleeps again and again, and checks that no sleep is short
 * epoll      waits in epoll_wait without handlers; a return is a failure, one EINTR a round is told apart
 * altstack   spins inside a signal handler on a small alternative stack between two canaries
 * small      spins on a stack of a few KiB between two canaries, as goroutines do
 * many       as registers, beside 100 threads that each keep sums
 */
#include "target.h"

#include <errno.h>
#include <sys/epoll.h>
#include <ucontext.h>

static volatile uint64_t interrupted; /* EINTR that no signal explains */

static void fail(const char *what)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "checker: %s\n", what);
}

static void beat(void)
{
    __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
}

struct image {
    uint64_t general[6];
    uint64_t vectors[16][4];
    uint32_t mxcsr, pad[3];
} __attribute__((aligned(64)));

/* Loads the pattern, spins for a while, stores what the registers hold then. */
__attribute__((noinline)) static void hold_in_registers(const struct image *in, struct image *out)
{
    __asm__ volatile(
        "ldmxcsr 560(%[in])\n"
        "vmovdqu 48(%[in]), %%ymm0\n vmovdqu 80(%[in]), %%ymm1\n vmovdqu 112(%[in]), %%ymm2\n"
        "vmovdqu 144(%[in]), %%ymm3\n vmovdqu 176(%[in]), %%ymm4\n vmovdqu 208(%[in]), %%ymm5\n"
        "vmovdqu 240(%[in]), %%ymm6\n vmovdqu 272(%[in]), %%ymm7\n vmovdqu 304(%[in]), %%ymm8\n"
        "vmovdqu 336(%[in]), %%ymm9\n vmovdqu 368(%[in]), %%ymm10\n vmovdqu 400(%[in]), %%ymm11\n"
        "vmovdqu 432(%[in]), %%ymm12\n vmovdqu 464(%[in]), %%ymm13\n vmovdqu 496(%[in]), %%ymm14\n"
        "vmovdqu 528(%[in]), %%ymm15\n"
        "movq 0(%[in]), %%r10\n movq 8(%[in]), %%r11\n movq 16(%[in]), %%r12\n"
        "movq 24(%[in]), %%r13\n movq 32(%[in]), %%r14\n movq 40(%[in]), %%r15\n"
        "movq $300000, %%rcx\n"
        "1: decq %%rcx\n jnz 1b\n"
        "movq %%r10, 0(%[out])\n movq %%r11, 8(%[out])\n movq %%r12, 16(%[out])\n"
        "movq %%r13, 24(%[out])\n movq %%r14, 32(%[out])\n movq %%r15, 40(%[out])\n"
        "vmovdqu %%ymm0, 48(%[out])\n vmovdqu %%ymm1, 80(%[out])\n vmovdqu %%ymm2, 112(%[out])\n"
        "vmovdqu %%ymm3, 144(%[out])\n vmovdqu %%ymm4, 176(%[out])\n vmovdqu %%ymm5, 208(%[out])\n"
        "vmovdqu %%ymm6, 240(%[out])\n vmovdqu %%ymm7, 272(%[out])\n vmovdqu %%ymm8, 304(%[out])\n"
        "vmovdqu %%ymm9, 336(%[out])\n vmovdqu %%ymm10, 368(%[out])\n vmovdqu %%ymm11, 400(%[out])\n"
        "vmovdqu %%ymm12, 432(%[out])\n vmovdqu %%ymm13, 464(%[out])\n vmovdqu %%ymm14, 496(%[out])\n"
        "vmovdqu %%ymm15, 528(%[out])\n"
        "stmxcsr 560(%[out])\n"
        "vzeroupper\n"
        :
        : [in] "r"(in), [out] "r"(out)
        : "memory", "cc", "rcx", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
          "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void check_registers(uint64_t round)
{
    static const uint32_t plain = 0x1f80;
    struct image in, out;
    memset(&in, 0, sizeof in);
    memset(&out, 0, sizeof out);
    fill_pattern(&in, sizeof in);
    in.general[0] += round;
    in.mxcsr = plain | (uint32_t)(round % 4) << 13; /* rounding mode */
    memset(in.pad, 0, sizeof in.pad);
    hold_in_registers(&in, &out);
    out.pad[0] = out.pad[1] = out.pad[2] = 0;
    in.mxcsr &= ~0x3fU, out.mxcsr &= ~0x3fU;
    if (memcmp(&in, &out, sizeof in))
        fail("registers changed");
    __asm__ volatile("ldmxcsr %0" : : "m"(plain));
}

static void registers(void)
{
    for (uint64_t round = 0;; round++) {
        check_registers(round);
        beat();
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void sleeping(void)
{
    for (;;) {
        struct timespec pause = {0, 20000000};
        double begun = now();
        if (nanosleep(&pause, NULL)) {
            if (errno != EINTR)
                fail("nanosleep");
            interrupted++;
        } else if (now() - begun < 0.0199) {
            fail("a sleep was short");
        }
        beat();
    }
}

static void epolling(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event;
    for (;;) {
        int count = epoll_wait(epoll, &event, 1, 20);
        if (count < 0 && errno == EINTR)
            interrupted++;
        else if (count)
            fail("epoll_wait");
        beat();
    }
}

#define CANARY 0xC0FFEE0DDF00D5UL
static uint64_t below[512], small_stack[2048 / 8 + 1024], above[512];

static void set_canaries(void)
{
    for (int i = 0; i < 512; i++)
        below[i] = above[i] = CANARY + i;
}

static void check_canaries(void)
{
    for (int i = 0; i < 512; i++)
        if (below[i] != CANARY + i || above[i] != CANARY + i)
            fail("a canary died");
}

__attribute__((noinline)) static void spin_on_small_stack(void)
{
    uint64_t sum, expected = 0;
    for (uint64_t i = 0; i < 1000; i++)
        expected = expected * 31 + i;
    for (;;) {
        sum = 0;
        for (uint64_t i = 0; i < 1000; i++)
            sum = sum * 31 + i;
        __asm__ volatile("" : "+r"(sum));
        if (sum != expected)
            fail("a sum is wrong");
        check_canaries();
        beat();
    }
}

static void handler(int number)
{
    (void)number;
    spin_on_small_stack();
}

static void on_alternative_stack(void)
{
    static char area[65536];
    stack_t stack = {.ss_sp = area, .ss_size = sizeof area};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    set_canaries();
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    target_ready();
    raise(SIGUSR1);
}

static void on_small_stack(void)
{
    static ucontext_t here, there;
    set_canaries();
    getcontext(&there);
    there.uc_stack.ss_sp = small_stack;
    there.uc_stack.ss_size = sizeof small_stack;
    there.uc_link = &here;
    makecontext(&there, spin_on_small_stack, 0);
    target_ready();
    swapcontext(&here, &there);
}

static void *summing(void *argument)
{
    uint64_t seed = (uintptr_t)argument, sum = 0;
    for (uint64_t round = 1;; round++) {
        sum += seed;
        struct timespec pause = {0, 5000000};
        if (sum != seed * round)
            fail("a thread lost its sum");
        nanosleep(&pause, NULL);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    const char *kind = count > 1 ? arguments[1] : "registers";
    target_begin();
    if (!strcmp(kind, "altstack"))
        on_alternative_stack();
    if (!strcmp(kind, "small"))
        on_small_stack();
    if (!strcmp(kind, "many"))
        for (uintptr_t i = 0; i < 100; i++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, summing, (void *)(i + 1)))
                die("pthread_create");
        }
    target_ready();
    if (!strcmp(kind, "sleep"))
        sleeping();
    if (!strcmp(kind, "epoll"))
        epolling();
    registers();
}
