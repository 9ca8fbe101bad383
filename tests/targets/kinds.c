/* kinds FOLDER [NAME ...]: memory of the named kinds, each with a content of its own.
 *
 * Area k holds the words k << 32 onwards of the pattern, as far as its kind is filled. Kinds that this kernel does
 * not have are left out: they tell no fact. At SIGUSR1 every word is inverted (of kinds that can be written to
 * everywhere), then `counter` of the state page moves on from 1 to 2. Beside them a private area that comes before
 * them in a core. SHM_FOLDER: where shm_file is made, if not in FOLDER.
 */
#include "target.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define HUGE_PAGE (2UL << 20)
#define GIB (1UL << 30)
#define LARGE (300UL << 20)
#define BEFORE (48UL << 20)
#define USUAL (33 * PAGE)
#define FOLDED (3UL << 20) /* has room for holes of more than 1 MiB */
#define MOST 64

struct area {
    const char *name;
    uint64_t *words;
    size_t bytes;
    uint64_t first_word;
};
static struct area areas[MOST];
static int used;
static const char *folder;

/* --- what maps an area: returns MAP_FAILED where this kernel has no such memory --- */

static void *map_private(struct area *area)
{
    return mmap(NULL, area->bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
}

static void *map_shared(struct area *area)
{
    return mmap(NULL, area->bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_SHARED, -1, 0);
}

static void *map_hugetlb(struct area *area)
{
    int share = strcmp(area->name, "hugetlb_shared") ? MAP_PRIVATE : MAP_SHARED;
    return mmap(NULL, area->bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_HUGETLB | share, -1, 0);
}

static void *map_thp(struct area *area)
{
    char *raw = map_anonymous(area->bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    raw += -(uintptr_t)raw & (HUGE_PAGE - 1);
    madvise(raw, area->bytes, MADV_HUGEPAGE);
    return raw;
}

static void *map_small_pages(struct area *area)
{
    void *words = map_private(area);
    madvise(words, area->bytes, MADV_NOHUGEPAGE);
    return words;
}

static void *map_droppable(struct area *area)
{
    return mmap(NULL, area->bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | 0x08 /* MAP_DROPPABLE */, -1, 0);
}

static void *map_heap(struct area *area)
{
    return sbrk((intptr_t)area->bytes);
}

static void *map_descriptor(int fd, size_t bytes, int protection, int share)
{
    void *words = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, protection, share, fd, 0);
    if (fd >= 0)
        close(fd);
    return words;
}

static void *map_zero_device(struct area *area)
{
    return map_descriptor(open("/dev/zero", O_RDWR | O_CLOEXEC), area->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static int empty_memfd(struct area *area)
{
    int fd = memfd_create("corepipe-test", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)area->bytes))
        die("ftruncate");
    return fd;
}

static void *map_memfd(struct area *area)
{
    return map_descriptor(empty_memfd(area), area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void *map_secret(struct area *area)
{
    int fd = (int)syscall(447 /* memfd_secret */, O_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)area->bytes))
        die("ftruncate");
    return map_descriptor(fd, area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void *map_system_v(struct area *area)
{
    int id = shmget(IPC_PRIVATE, area->bytes, IPC_CREAT | 0600);
    void *words = id < 0 ? MAP_FAILED : shmat(id, NULL, 0);
    if (words != MAP_FAILED)
        shmctl(id, IPC_RMID, NULL); /* gone with its last user */
    return words;
}

static void *map_shm_file(struct area *area)
{
    char path[4096];
    const char *shm = getenv("SHM_FOLDER");
    snprintf(path, sizeof path, "%s/shm_file", shm ? shm : folder);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)area->bytes))
        die(path);
    return map_descriptor(fd, area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void fill(struct area *area, size_t first, size_t bytes)
{
    for (size_t i = first / 8; i < (first + bytes) / 8; i++)
        area->words[i] = pattern_word(area->first_word + i);
}

/* The path of the area's own file, made with the area's content. */
static const char *made_file(struct area *area)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, area->name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct area copy = *area;
    copy.words = malloc(area->bytes);
    fill(&copy, 0, area->bytes);
    if (fd < 0 || write(fd, copy.words, area->bytes) != (ssize_t)area->bytes)
        die(path);
    free(copy.words);
    close(fd);
    return path;
}

static void *map_file(struct area *area, int protection, int share)
{
    int fd = open(made_file(area), (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    return map_descriptor(fd, area->bytes, protection, share);
}

static void *map_private_file(struct area *area)
{
    return map_file(area, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void *map_shared_file(struct area *area)
{
    return map_file(area, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void *map_readonly_file(struct area *area)
{
    return map_file(area, PROT_READ, MAP_SHARED);
}

static void *map_private_memfd(struct area *area)
{
    int fd = empty_memfd(area);
    struct area whole = *area;
    whole.words = mmap(NULL, area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fill(&whole, 0, area->bytes);
    munmap(whole.words, area->bytes);
    return map_descriptor(fd, area->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void *map_perf(struct area *area)
{
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_DUMMY};
    int fd = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    return map_descriptor(fd, area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void *map_packets(struct area *area)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* protocol 0: nothing ever arrives */
    struct tpacket_req ring = {.tp_block_size = 4 * PAGE, .tp_frame_size = 2048};
    ring.tp_block_nr = (unsigned)(area->bytes / ring.tp_block_size);
    ring.tp_frame_nr = (unsigned)(area->bytes / ring.tp_frame_size);
    if (fd >= 0 && setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring))
        return MAP_FAILED;
    return map_descriptor(fd, area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void *map_io_uring(struct area *area)
{
    struct io_uring_params parameters = {0};
    int fd = (int)syscall(SYS_io_uring_setup, area->bytes / sizeof(struct io_uring_sqe), &parameters);
    if (fd < 0)
        return MAP_FAILED;
    return mmap(NULL, area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES); /* fd stays open */
}

/* --- what is done to it once it is filled: returns nonzero where this kernel cannot --- */

static int advise(struct area *area, int advice)
{
    return madvise(area->words, area->bytes, advice);
}

static int dontdump(struct area *area) { return advise(area, MADV_DONTDUMP); }
static int dontfork(struct area *area) { return advise(area, MADV_DONTFORK); }
static int wipeonfork(struct area *area) { return advise(area, MADV_WIPEONFORK); }
static int set_free(struct area *area) { return advise(area, MADV_FREE); }
static int mergeable(struct area *area) { return advise(area, MADV_MERGEABLE); }
static int protect(struct area *area) { return mprotect(area->words, area->bytes, PROT_NONE); }
static int execute_only(struct area *area) { return mprotect(area->words, area->bytes, PROT_EXEC); }

/* Page for page what the area before it holds. */
static int mergeable_twin(struct area *area)
{
    area->first_word = area[-1].first_word;
    fill(area, 0, area->bytes);
    return mergeable(area);
}

/* All but the first and the last page are given back. */
static int dontneed(struct area *area)
{
    return madvise((char *)area->words + PAGE, area->bytes - 2 * PAGE, MADV_DONTNEED);
}

/* A guard page in the middle. */
static int guard_installed(struct area *area)
{
    return madvise((char *)area->words + 16 * PAGE, PAGE, 102 /* MADV_GUARD_INSTALL, Linux 6.13 */);
}

static int guard_protected(struct area *area)
{
    return mprotect((char *)area->words + 16 * PAGE, PAGE, PROT_NONE);
}

static int read_every_page(struct area *area)
{
    for (size_t i = 0; i < area->bytes / 8; i += PAGE / 8)
        (void)((volatile uint64_t *)area->words)[i];
    return 0;
}

static int name_it(struct area *area)
{
    return prctl(0x53564d41 /* PR_SET_VMA */, 0, area->words, area->bytes, "corepipe test");
}

/* Of a file that was not filled through its mapping: one word is written to. */
static int write_first_word(struct area *area)
{
    area->words[0] = ~area->words[0];
    return 0;
}

static const char *file_of(struct area *area)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, area->name);
    return path;
}

static int delete_file(struct area *area)
{
    return write_first_word(area) || unlink(file_of(area));
}

static int delete_only(struct area *area) { return unlink(file_of(area)); }

/* The first page is left: what lies behind the end of the file is SIGBUS, for the target too. */
static int truncate_file(struct area *area)
{
    return write_first_word(area) || truncate(file_of(area), PAGE);
}

/* --- all kinds --- */

enum filled { ALL, ENDS, NOT };

static const struct kind {
    const char *name;
    size_t bytes;
    void *(*map)(struct area *);
    enum filled filled; /* through the mapping, by the first and last page, or not */
    int (*after)(struct area *);
} kinds[] = {
    {"private", USUAL, map_private, ALL, NULL},
    {"large", (17UL << 20) + 3 * PAGE, map_private, ALL, NULL},
    {"beyond_2_gib", 2 * GIB + 3 * HUGE_PAGE + 5 * PAGE, map_thp, ALL, NULL},
    {"thp", 2 * HUGE_PAGE, map_thp, ALL, NULL},
    {"named", USUAL, map_private, ALL, name_it},
    {"heap", USUAL, map_heap, ALL, NULL},
    {"mergeable", USUAL, map_private, ALL, mergeable},
    {"mergeable_twin", USUAL, map_private, NOT, mergeable_twin},
    {"never_touched", FOLDED, map_small_pages, NOT, NULL},
    {"only_read", USUAL, map_small_pages, NOT, read_every_page},
    {"partly_touched", FOLDED, map_small_pages, ENDS, NULL},
    {"dontneed", FOLDED, map_small_pages, ALL, dontneed},
    {"free", USUAL, map_small_pages, ALL, set_free},
    {"protnone", USUAL, map_private, ALL, protect},
    {"protnone_untouched", USUAL, map_private, NOT, protect},
    {"execute_only", USUAL, map_private, ALL, execute_only},
    {"guard_installed", USUAL, map_small_pages, ALL, guard_installed},
    {"guard_protected", USUAL, map_private, ALL, guard_protected},
    {"dontdump", USUAL, map_private, ALL, dontdump},
    {"dontfork", USUAL, map_private, ALL, dontfork},
    {"wipeonfork", USUAL, map_private, ALL, wipeonfork},
    {"droppable", USUAL, map_droppable, ALL, NULL},
    {"zero_device", FOLDED, map_zero_device, ENDS, NULL},
    {"shared", USUAL, map_shared, ALL, NULL},
    {"shared_large", LARGE, map_shared, ALL, NULL},
    {"shared_partly", FOLDED, map_shared, ENDS, NULL},
    {"memfd", USUAL, map_memfd, ALL, NULL},
    {"memfd_private", USUAL, map_private_memfd, NOT, write_first_word},
    {"secret", USUAL, map_secret, ALL, NULL},
    {"system_v", USUAL, map_system_v, ALL, NULL},
    {"shm_file", USUAL, map_shm_file, ALL, NULL},
    {"hugetlb", 2 * HUGE_PAGE, map_hugetlb, ALL, NULL},
    {"hugetlb_shared", 2 * HUGE_PAGE, map_hugetlb, ALL, NULL},
    {"file_clean", USUAL, map_private_file, NOT, NULL},
    {"file_written", USUAL, map_private_file, NOT, write_first_word},
    {"file_deleted", USUAL, map_private_file, NOT, delete_file},
    {"file_truncated", 4 * PAGE, map_private_file, NOT, truncate_file},
    {"shared_file", USUAL, map_shared_file, NOT, write_first_word},
    {"shared_file_deleted", USUAL, map_shared_file, NOT, delete_file},
    {"shared_file_truncated", 4 * PAGE, map_shared_file, NOT, truncate_file},
    {"shared_file_readonly", USUAL, map_readonly_file, NOT, NULL},
    {"readonly_deleted", USUAL, map_readonly_file, NOT, delete_only},
    {"perf", 9 * PAGE, map_perf, NOT, NULL},
    {"packets", 16 * PAGE, map_packets, ALL, NULL},
    {"io_uring", 16 * PAGE, map_io_uring, ALL, NULL},
};

static const struct kind *kind_named(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    errno = EINVAL;
    die(name);
    return NULL;
}

/* A page of its own beside an area, if there is room: the kernel joins no neighbours over it. */
static void fence(char *place)
{
    mmap(place, PAGE, PROT_NONE, MAP_ANONYMOUS | MAP_SHARED | MAP_FIXED_NOREPLACE, -1, 0);
}

static void make(const char *name, unsigned index)
{
    const struct kind *kind = kind_named(name);
    struct area *area = &areas[used];
    *area = (struct area){kind->name, NULL, kind->bytes, (uint64_t)index << 32};
    area->words = kind->map(area);
    if (area->words == MAP_FAILED)
        return;
    if (kind->filled == ALL)
        fill(area, 0, area->bytes);
    if (kind->filled == ENDS) {
        fill(area, 0, PAGE);
        fill(area, area->bytes - PAGE, PAGE);
    }
    if (kind->after && kind->after(area))
        return;
    used++;
    fact("%s=%p\n%s_bytes=%zu\n", name, (void *)area->words, name, area->bytes);
    fence((char *)area->words - PAGE);
    fence((char *)area->words + area->bytes);
}

static void invert(int number)
{
    for (int k = 0; k < used; k++)
        for (size_t i = 0; i < areas[k].bytes / 8; i++)
            areas[k].words[i] = ~areas[k].words[i];
    state->counter = 2;
}

int main(int count, char **arguments)
{
    target_begin();
    folder = arguments[1];
    for (int k = 0; k + 2 < count && k < MOST; k++)
        make(arguments[k + 2], (unsigned)k);
    /* the last is the lowest: a stuck pipe holds up what comes behind it */
    char *before = map_anonymous(BEFORE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(before, BEFORE);
    fact("before=%p\n", (void *)before);
    struct sigaction action = {.sa_handler = invert};
    sigaction(SIGUSR1, &action, NULL);
    state->counter = 1;
    target_ready();
    for (;;)
        pause();
}
