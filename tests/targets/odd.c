/* odd KIND [NUMBER]: one thing that makes a snapshot hard or impossible.
 *
 * plain          nothing
 * userfaultfd    a registered range
 * missing, minor a registered range of 16 pages of which 8 are there; nobody will ever bring the others
 * deep BYTES     the main thread stands that far down its stack
 * commit BYTES   a private mapping that nobody touches, which a fork would have to account for
 * undumpable     prctl(PR_SET_DUMPABLE, 0)
 * socket BYTES   closes descriptor 0 at SIGUSR1, and has a large area
 */
#include "target.h"

#include <alloca.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

static void register_range(char *area, size_t bytes, int mode)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {{(uintptr_t)area, bytes}, mode, 0};
    if (mode == UFFDIO_REGISTER_MODE_MINOR)
        api.features = UFFD_FEATURE_MINOR_SHMEM;
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        die("userfaultfd");
}

/* The 8 that are there are written to; of minor the others are in the file, but not in the page tables. */
static void serve_half(int mode)
{
    size_t bytes = 16 * PAGE;
    char *half = NULL;
    if (mode == UFFDIO_REGISTER_MODE_MISSING)
        half = map_anonymous(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    else {
        int fd = memfd_create("corepipe-test", MFD_CLOEXEC);
        char *all = ftruncate(fd, (off_t)bytes) ? MAP_FAILED : mmap(NULL, bytes, PROT_WRITE, MAP_SHARED, fd, 0);
        half = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (all == MAP_FAILED || half == MAP_FAILED)
            die("memfd");
        fill_pattern(all, bytes);
        munmap(all, bytes);
        close(fd);
    }
    madvise(half, bytes, MADV_NOHUGEPAGE);
    fill_pattern(half, bytes / 2);
    register_range(half, bytes, mode);
    fact("half=%p\n", (void *)half);
}

__attribute__((noinline)) static void stand_deep(unsigned long bytes)
{
    volatile char *frame = alloca(bytes);
    for (unsigned long i = bytes; i > 0; i -= i < 64 ? i : 64) /* from the top down: the stack grows as it is used */
        frame[i - 1] = 0x5a;
    fact("frame=%p\n", (void *)frame);
    target_ready();
    beat_forever();
}

static void close_socket(int number)
{
    close(0);
    count_signal(number);
}

int main(int count, char **arguments)
{
    const char *kind = count > 1 ? arguments[1] : "plain";
    unsigned long number = count > 2 ? strtoul(arguments[2], NULL, 0) : 0;
    target_begin();
    char *area = map_anonymous(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, 16 * PAGE);
    fact("area=%p\n", (void *)area);
    if (!strcmp(kind, "userfaultfd"))
        register_range(
            map_anonymous(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE), 16 * PAGE, UFFDIO_REGISTER_MODE_MISSING);
    if (!strcmp(kind, "missing"))
        serve_half(UFFDIO_REGISTER_MODE_MISSING);
    if (!strcmp(kind, "minor"))
        serve_half(UFFDIO_REGISTER_MODE_MINOR);
    if (!strcmp(kind, "undumpable") && prctl(PR_SET_DUMPABLE, 0))
        die("dumpable");
    if (!strcmp(kind, "commit"))
        map_anonymous(number, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    if (!strcmp(kind, "socket")) {
        fill_pattern(map_anonymous(number, PROT_READ | PROT_WRITE, MAP_PRIVATE), number);
        struct sigaction action = {.sa_handler = close_socket};
        sigaction(SIGUSR1, &action, NULL);
    }
    if (!strcmp(kind, "deep"))
        stand_deep(number);
    target_ready();
    beat_forever();
}
