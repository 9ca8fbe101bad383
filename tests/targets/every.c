/* every FOLDER SHM_FOLDER [hugetlb]: a mapping of every kind that the rules for cores tell apart, then stillness.
 *
 * Each is told as "name=address". No two lie side by side: the kernel would join them.
 */
#include "target.h"

#include <sys/rseq.h>

#include <linux/aio_abi.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#define HUGE_PAGE (2UL << 20)
#define SIZE (4 * PAGE)
#define RW (PROT_READ | PROT_WRITE)

static const char *folder, *shm_folder;
static char name_of_file[4096];

static char *told(const char *name, void *area)
{
    if (area == MAP_FAILED || area == NULL)
        die(name);
    fact("%s=%p\n", name, area);
    mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return area;
}

static char *anonymous(const char *name, size_t bytes, int flags, int fill)
{
    char *area = told(name, mmap(NULL, bytes, RW, MAP_ANONYMOUS | flags, -1, 0));
    if (fill)
        fill_pattern(area, bytes);
    return area;
}

static int file(const char *where, const char *name, mode_t mode, const char *begins)
{
    uint64_t content[SIZE / 8];
    fill_pattern(content, sizeof content);
    memcpy(content, begins, strlen(begins));
    snprintf(name_of_file, sizeof name_of_file, "%s/%s", where, name);
    int fd = open(name_of_file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0 || write(fd, content, sizeof content) != sizeof content)
        die(name_of_file);
    return fd;
}

/* A new file of that name, mapped. */
static char *mapped(const char *name, mode_t mode, const char *begins, int protection, int flags, off_t offset)
{
    int fd = file(folder, name, mode, begins);
    char *area = told(name, mmap(NULL, SIZE - (size_t)offset, protection, flags, fd, offset));
    close(fd);
    return area;
}

static void anonymous_ones(void)
{
    anonymous("touched", SIZE, MAP_PRIVATE, 1);
    anonymous("untouched", SIZE, MAP_PRIVATE, 0);
    volatile char *only_read = anonymous("only_read", SIZE, MAP_PRIVATE, 0);
    (void)only_read[0];
    char *sparse = anonymous("sparse", 8UL << 20, MAP_PRIVATE, 0);
    sparse[PAGE] = sparse[6UL << 20] = 's';
    told("no_access", mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(anonymous("no_access_touched", SIZE, MAP_PRIVATE, 1), SIZE, PROT_NONE);
    mprotect(anonymous("execute_only", SIZE, MAP_PRIVATE, 1), SIZE, PROT_EXEC);
    madvise(anonymous("freed", SIZE, MAP_PRIVATE, 1), SIZE, MADV_DONTNEED);
    madvise(anonymous("partly_freed", SIZE, MAP_PRIVATE, 1), PAGE, MADV_DONTNEED);
    char *split = anonymous("split", 2 * SIZE, MAP_PRIVATE, 0);
    split[0] = 's';
    mprotect(split + SIZE, SIZE, PROT_READ); /* two mappings now; the second was never touched */
    madvise(anonymous("dontdump", SIZE, MAP_PRIVATE, 1), SIZE, MADV_DONTDUMP);
    char *again = anonymous("dodump", SIZE, MAP_PRIVATE, 1);
    madvise(again, SIZE, MADV_DONTDUMP);
    madvise(again, SIZE, MADV_DODUMP);
    anonymous("grows_down", SIZE, MAP_PRIVATE | MAP_GROWSDOWN, 1);
    anonymous("locked", SIZE, MAP_PRIVATE | MAP_LOCKED, 0);
}

static void shared_ones(void)
{
    anonymous("shared", SIZE, MAP_SHARED, 1);
    anonymous("shared_untouched", SIZE, MAP_SHARED, 0);
    madvise(anonymous("shared_dontdump", SIZE, MAP_SHARED, 1), SIZE, MADV_DONTDUMP);
    int fd = memfd_create("corepipe-test", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, SIZE))
        die("memfd");
    fill_pattern(told("memfd", mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0)), SIZE);
    told("memfd_private", mmap(NULL, SIZE, RW, MAP_PRIVATE, fd, 0));
    close(fd);
    fd = file(shm_folder, "shm_file", 0600, "");
    told("shm_file", mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0));
    close(fd);
    fd = file(shm_folder, "shm_deleted", 0600, "");
    told("shm_deleted", mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0));
    unlink(name_of_file);
    close(fd);
    int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
    char *area = id < 0 ? MAP_FAILED : shmat(id, NULL, 0);
    shmctl(id, IPC_RMID, NULL);
    fill_pattern(told("system_v", area), SIZE);
    aio_context_t ring = 0;
    if (!syscall(SYS_io_setup, 1, &ring)) /* a file of the kernel's own that never had a name, but has a link */
        told("aio_ring", (void *)ring);
}

static void files(void)
{
    char other[4200];
    mapped("file", 0600, "", RW, MAP_PRIVATE, 0);
    mapped("file_written", 0600, "", RW, MAP_PRIVATE, 0)[PAGE] = 'w';
    mapped("shared_file", 0600, "", RW, MAP_SHARED, 0);
    mapped("shared_file_deleted", 0600, "", RW, MAP_SHARED, 0);
    unlink(name_of_file);
    mapped("shared_file_with_another_link", 0600, "", RW, MAP_SHARED, 0);
    snprintf(other, sizeof other, "%s.link", name_of_file);
    if (link(name_of_file, other) || unlink(name_of_file))
        die("link");
    mapped("shared_file_called (deleted)", 0600, "", RW, MAP_SHARED, 0);
    int fd = file(folder, "shared_read_only", 0600, "");
    close(fd);
    fd = open(name_of_file, O_RDONLY | O_CLOEXEC);
    told("shared_read_only", mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0));
    close(fd);
    mapped("file_deleted", 0600, "", RW, MAP_PRIVATE, 0);
    unlink(name_of_file);
}

static void program_files(void)
{
    mapped("elf", 0600, "\177ELF", PROT_READ, MAP_PRIVATE, 0);
    mapped("elf_later", 0600, "\177ELF", PROT_READ, MAP_PRIVATE, PAGE);
    mapped("elf_no_access", 0600, "\177ELF", PROT_NONE, MAP_PRIVATE, 0);
    mapped("elf_execute_only", 0700, "\177ELF", PROT_EXEC, MAP_PRIVATE, 0);
    mapped("script", 0700, "#!/bin/sh\n", PROT_READ, MAP_PRIVATE, 0);
    mapped("elf_cut", 0600, "\177ELF", PROT_READ, MAP_PRIVATE, 0);
    if (truncate(name_of_file, 0))
        die("truncate");
    mapped("script_cut", 0700, "#!/bin/sh\n", PROT_READ, MAP_PRIVATE, 0);
    if (truncate(name_of_file, 0))
        die("truncate");
}

static void huge_ones(void)
{
    anonymous("hugetlb", HUGE_PAGE, MAP_PRIVATE | MAP_HUGETLB, 1);
    anonymous("hugetlb_untouched", HUGE_PAGE, MAP_PRIVATE | MAP_HUGETLB | MAP_NORESERVE, 0);
    anonymous("hugetlb_shared", HUGE_PAGE, MAP_SHARED | MAP_HUGETLB, 1);
}

int main(int count, char **arguments)
{
    target_begin();
    if (count < 3)
        return 2;
    folder = arguments[1];
    shm_folder = arguments[2];
    anonymous_ones();
    shared_ones();
    files();
    program_files();
    if (count > 3)
        huge_ones();
    /* what the kernel takes in and the outside cannot tell: written once, and now the file's again */
    char *restored = mapped("file_restored", 0600, "", RW, MAP_PRIVATE, 0);
    memset(restored, 'x', SIZE);
    madvise(restored, SIZE, MADV_DONTNEED);
    char *split = mapped("file_split", 0600, "", RW, MAP_PRIVATE, 0);
    split[0] = 'w';
    mprotect(split + 2 * PAGE, 2 * PAGE, PROT_READ); /* two mappings now; nothing was written to the second */
    fact("file_split_rest=%p\n", (void *)(split + 2 * PAGE));
    fact("rseq_offset=%td\n", __rseq_offset);
    state->counter = 1;
    target_ready();
    for (;;)
        pause();
}
