/* A static program without a C library, in which no `syscall; ret` and no sigreturn can be found.
 * (With -m32 and on Arm the vDSO has both.) Built with -nostdlib -static. Speaks the protocol of target.h, without its signals.
 */
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifdef __x86_64__
#define START "_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n\thlt"

static inline __attribute__((always_inline)) long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall\n\tnop" /* never a ret behind it */
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static long map_shared(long fd)
{
    return call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}
#elif defined __aarch64__
#define START "_start:\n\tmov x0, sp\n\tbl begin"

static inline __attribute__((always_inline)) long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0\n\tnop" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}

static long map_shared(long fd)
{
    return call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}
#else
#define START "_start:\n\tmov %esp, %eax\n\tand $-16, %esp\n\tsub $12, %esp\n\tpush %eax\n\tcall begin\n\thlt"

static inline __attribute__((always_inline)) long call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    (void)f;
    __asm__ volatile("int $0x80\n\tnop"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory");
    return result;
}

static long map_shared(long fd)
{
    long arguments[] = {0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0};
    return call(SYS_mmap, (long)arguments, 0, 0, 0, 0, 0);
}
#endif

static const char *variable(char **environment, const char *name)
{
    for (; *environment; environment++) {
        const char *text = *environment, *wanted = name;
        while (*wanted && *text == *wanted)
            text++, wanted++;
        if (!*wanted && *text == '=')
            return text + 1;
    }
    return "";
}

__attribute__((used)) static void begin(char **stack)
{
    char **environment = stack + 1 + *(long *)stack + 1;
    long ready = 0;
    for (const char *digit = variable(environment, "TARGET_READY"); *digit; digit++)
        ready = 10 * ready + *digit - '0';
    call(SYS_prctl, 1 /* PR_SET_PDEATHSIG */, 9, 0, 0, 0, 0);
    long fd = call(SYS_openat, AT_FDCWD, (long)variable(environment, "TARGET_STATE"), O_RDWR | O_CLOEXEC, 0, 0, 0);
    long page = map_shared(fd);
    if (page < 0 && page > -4096)
        call(SYS_exit, 1, 0, 0, 0, 0, 0);
    call(SYS_close, fd, 0, 0, 0, 0, 0);
    call(SYS_close, ready, 0, 0, 0, 0, 0);
    struct {
        long seconds, nanoseconds;
    } pause = {0, 1000000};
    for (volatile uint64_t *counter = (uint64_t *)page;;) {
        ++*counter;
        call(SYS_nanosleep, (long)&pause, 0, 0, 0, 0, 0);
    }
}

__asm__(".globl _start\n" START);
