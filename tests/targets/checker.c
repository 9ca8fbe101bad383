/* checker KIND: a main thread that checks itself while it is copied; the main thread is the one calls are run in.
 *
 * registers  spins with a pattern in general, AVX and SSE control registers (i386: x87 and fs; Arm: its own), and
 *            compares them
 * sleep      sleeps again and again, and checks that no sleep is short
 * nap N      sleeps again and again, N milliseconds each time, after an EINTR for what is left of them
 * futex      waits on a futex with a timeout
 * epoll      waits in epoll_wait without handlers; a return is a failure, one EINTR a round is told apart
 * altstack   spins inside a signal handler on a small alternative stack between two canaries
 * small      spins on a stack of a few KiB between two canaries, as goroutines do
 * many N     as registers, beside N threads that each keep sums
 */
#include "target.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <ucontext.h>

static volatile uint64_t interrupted; /* EINTR that no signal explains */

static void fail(const char *what)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "checker: %s\n", what);
}

static __thread volatile uint64_t rounds;

static void beat(void)
{
    static uint64_t known; /* one thread beats */
    if (rounds++ != known++)
        fail("thread-local storage changed");
    __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
}

#ifdef __x86_64__
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

static void set_control(struct image *image, uint64_t round)
{
    image->mxcsr = 0x1f80 | (uint32_t)(round % 4) << 13; /* rounding mode */
}

static void usual_control(void)
{
    static const uint32_t usual = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(usual));
}

#elif defined __aarch64__
struct image {
    uint64_t general[26];
    uint64_t vectors[32][2];
    uint64_t control, status, flags;
    uint64_t pad[11];
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct image, vectors) == 208 && offsetof(struct image, control) == 720 && sizeof(struct image) == 832,
               "offsets below");

/* Registers two by two from an address on; x0 to x3 are in use. */
#define GENERAL(op, at)                                                                                                \
    #op " x4, x5, [" at "]\n" #op " x6, x7, [" at ", 16]\n" #op " x8, x9, [" at ", 32]\n"                              \
    #op " x10, x11, [" at ", 48]\n" #op " x12, x13, [" at ", 64]\n" #op " x14, x15, [" at ", 80]\n"                    \
    #op " x16, x17, [" at ", 96]\n" #op " x18, x20, [" at ", 112]\n" #op " x21, x22, [" at ", 128]\n"                  \
    #op " x23, x24, [" at ", 144]\n" #op " x25, x26, [" at ", 160]\n" #op " x27, x28, [" at ", 176]\n"                 \
    #op " x19, x30, [" at ", 192]\n"
#define VECTORS(op, at)                                                                                                \
    #op " q0, q1, [" at "]\n" #op " q2, q3, [" at ", 32]\n" #op " q4, q5, [" at ", 64]\n"                              \
    #op " q6, q7, [" at ", 96]\n" #op " q8, q9, [" at ", 128]\n" #op " q10, q11, [" at ", 160]\n"                      \
    #op " q12, q13, [" at ", 192]\n" #op " q14, q15, [" at ", 224]\n" #op " q16, q17, [" at ", 256]\n"                 \
    #op " q18, q19, [" at ", 288]\n" #op " q20, q21, [" at ", 320]\n" #op " q22, q23, [" at ", 352]\n"                 \
    #op " q24, q25, [" at ", 384]\n" #op " q26, q27, [" at ", 416]\n" #op " q28, q29, [" at ", 448]\n"                 \
    #op " q30, q31, [" at ", 480]\n"

__attribute__((noinline)) static void hold_in_registers(const struct image *in_image, struct image *out_image)
{
    register const struct image *in __asm__("x0") = in_image;
    register struct image *out __asm__("x1") = out_image;
    __asm__ volatile(
        "ldr x3, [x0, 720]\n msr fpcr, x3\n ldr x3, [x0, 728]\n msr fpsr, x3\n ldr x3, [x0, 736]\n msr nzcv, x3\n"
        "add x3, x0, 208\n" VECTORS(ldp, "x3") GENERAL(ldp, "x0")
        "mov x2, 0x50000\n"
        "1: sub x2, x2, 1\n cbnz x2, 1b\n"
        GENERAL(stp, "x1") "add x3, x1, 208\n" VECTORS(stp, "x3")
        "mrs x3, fpcr\n str x3, [x1, 720]\n mrs x3, fpsr\n str x3, [x1, 728]\n mrs x3, nzcv\n str x3, [x1, 736]\n"
        : "+r"(in), "+r"(out)
        :
        : "memory", "cc", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
          "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30", "v0", "v1",
          "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18",
          "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

static void set_control(struct image *image, uint64_t round)
{
    image->control = round % 4 << 22;             /* rounding mode */
    image->status = 1 << 27 | (round & 1) << 4;   /* saturated, inexact */
    image->flags = (round / 4 + 1) % 16 << 28;
}

static void usual_control(void)
{
    __asm__ volatile("msr fpcr, xzr");
}

#else /* i386: x87 too, with five of its eight registers in use, and a segment register */
struct image {
    uint64_t vectors[8][4];
    uint8_t floats[5][10];
    uint16_t control;
    uint32_t mxcsr;
    uint32_t environment[7];
    uint32_t general[5];
    uint32_t segment, pad[5];
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct image) == 384 && offsetof(struct image, segment) == 360, "offsets below");

__attribute__((noinline)) static void hold_pair_in_registers(struct image pair[2])
{
    __asm__ volatile(
        "push %%ebp\n"
        "ldmxcsr 308(%[pair])\n fldcw 306(%[pair])\n"
        "vmovdqu 0(%[pair]), %%ymm0\n vmovdqu 32(%[pair]), %%ymm1\n vmovdqu 64(%[pair]), %%ymm2\n"
        "vmovdqu 96(%[pair]), %%ymm3\n vmovdqu 128(%[pair]), %%ymm4\n vmovdqu 160(%[pair]), %%ymm5\n"
        "vmovdqu 192(%[pair]), %%ymm6\n vmovdqu 224(%[pair]), %%ymm7\n"
        "fldt 296(%[pair])\n fldt 286(%[pair])\n fldt 276(%[pair])\n fldt 266(%[pair])\n fldt 256(%[pair])\n"
        "fnstenv 312(%[pair])\n"
        "movl 360(%[pair]), %%edx\n movw %%dx, %%fs\n"
        "movl 340(%[pair]), %%ebx\n movl 344(%[pair]), %%edx\n movl 348(%[pair]), %%esi\n"
        "movl 352(%[pair]), %%edi\n movl 356(%[pair]), %%ebp\n"
        "movl $300000, %%ecx\n"
        "1: decl %%ecx\n jnz 1b\n"
        "movl %%ebx, 724(%[pair])\n movl %%edx, 728(%[pair])\n movl %%esi, 732(%[pair])\n"
        "movl %%edi, 736(%[pair])\n movl %%ebp, 740(%[pair])\n"
        "movl %%fs, %%edx\n movl %%edx, 744(%[pair])\n"
        "vmovdqu %%ymm0, 384(%[pair])\n vmovdqu %%ymm1, 416(%[pair])\n vmovdqu %%ymm2, 448(%[pair])\n"
        "vmovdqu %%ymm3, 480(%[pair])\n vmovdqu %%ymm4, 512(%[pair])\n vmovdqu %%ymm5, 544(%[pair])\n"
        "vmovdqu %%ymm6, 576(%[pair])\n vmovdqu %%ymm7, 608(%[pair])\n"
        "fnstenv 696(%[pair])\n"
        "fstpt 640(%[pair])\n fstpt 650(%[pair])\n fstpt 660(%[pair])\n fstpt 670(%[pair])\n fstpt 680(%[pair])\n"
        "fnstcw 690(%[pair])\n stmxcsr 692(%[pair])\n"
        "vzeroupper\n"
        "pop %%ebp\n"
        :
        : [pair] "a"(pair)
        : "memory", "cc", "ebx", "ecx", "edx", "esi", "edi", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)",
          "st(6)", "st(7)"); /* the compiler itself uses no vectors here */
}

static void hold_in_registers(struct image *in, struct image *out)
{
    static const uint16_t plain = 0x37f, user_ds = 0x2b;
    struct image pair[2] = {*in, *out};
    pair[0].control = plain | (in->mxcsr >> 13 & 3) << 10; /* rounding mode */
    pair[0].segment = user_ds;
    hold_pair_in_registers(pair);
    for (int i = 3; i < 7; i++) /* the last instruction and operand: not all of it survives a change of tasks */
        pair[0].environment[i] = pair[1].environment[i] = 0;
    memset(pair[1].pad, 0, sizeof pair[1].pad);
    *in = pair[0];
    *out = pair[1];
    __asm__ volatile("fldcw %0" : : "m"(plain));
}

static void set_control(struct image *image, uint64_t round)
{
    image->mxcsr = 0x1f80 | (uint32_t)(round % 4) << 13; /* rounding mode */
}

static void usual_control(void)
{
    static const uint32_t usual = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(usual));
}
#endif

static void check_registers(uint64_t round)
{
    struct image in, out;
    memset(&in, 0, sizeof in);
    memset(&out, 0, sizeof out);
    fill_pattern(&in, sizeof in);
    in.general[0] += round;
    set_control(&in, round);
    memset(in.pad, 0, sizeof in.pad);
    hold_in_registers(&in, &out);
    memset(out.pad, 0, sizeof out.pad);
#ifndef __aarch64__
    in.mxcsr &= ~0x3fU, out.mxcsr &= ~0x3fU; /* what was inexact and so on, of the compiler's own sums too */
#endif
    if (memcmp(&in, &out, sizeof in))
        fail("registers changed");
    usual_control();
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

static void napping(long milliseconds)
{
    for (;;) {
        struct timespec rest = {milliseconds / 1000, milliseconds % 1000 * 1000000};
        double begun = now();
        struct timespec left; /* not the same as what is asked for, which a call begun anew would read */
        while (nanosleep(&rest, &left)) {
            if (errno != EINTR)
                fail("nanosleep");
            rest = left;
        }
        if (now() - begun < milliseconds / 1000.0 - 0.0001)
            fail("a nap was short");
        beat();
    }
}

static void waiting(void)
{
    static int word;
    for (;;) {
        struct timespec limit = {0, 20000000};
        double begun = now();
        if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0) != -1)
            fail("futex");
        if (errno == EINTR)
            interrupted++;
        else if (errno != ETIMEDOUT)
            fail("futex");
        else if (now() - begun < 0.0199)
            fail("a wait was short");
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
        for (uintptr_t i = 0; i < strtoul(arguments[2], NULL, 0); i++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, summing, (void *)(i + 1)))
                die("pthread_create");
        }
    target_ready();
    if (!strcmp(kind, "sleep"))
        sleeping();
    if (!strcmp(kind, "nap"))
        napping(atol(arguments[2]));
    if (!strcmp(kind, "futex"))
        waiting();
    if (!strcmp(kind, "epoll"))
        epolling();
    registers();
}
