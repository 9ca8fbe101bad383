/* kinds FOLDER [NAME ...]: memory of the named kinds, each with a content of its own.
 *
 * Area k holds the words k << 32 onwards of the pattern. At SIGUSR1 every word is inverted, then `counter`
 * of the state page moves on from 1 to 2. Beside them a private area that comes before them in a core.
 */
#include "target.h"

#include <sys/ipc.h>
#include <sys/shm.h>

#define HUGE_PAGE (2UL << 20)
#define LARGE (300UL << 20)
#define BEFORE (48UL << 20)

static struct area {
    const char *name;
    uint64_t *words;
    size_t bytes;
} areas[32];
static int used;

static void *map_descriptor(int fd, size_t bytes)
{
    if (fd < 0 || ftruncate(fd, (off_t)bytes))
        die("shared file");
    void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return area;
}

static void *system_v(size_t bytes)
{
    int id = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
    void *area = id < 0 ? MAP_FAILED : shmat(id, NULL, 0);
    if (area != (void *)-1)
        shmctl(id, IPC_RMID, NULL); /* gone with its last user */
    return area;
}

static void *map_kind(const char *name, const char *folder, size_t *bytes)
{
    const int protection = PROT_READ | PROT_WRITE, anonymous = MAP_ANONYMOUS;
    char path[4096];
    void *area;
    if (!strcmp(name, "memfd"))
        return map_descriptor(memfd_create("corepipe-test", MFD_CLOEXEC), *bytes);
    if (!strcmp(name, "shm_file")) {
        snprintf(path, sizeof path, "%s/shm_file", folder);
        return map_descriptor(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), *bytes);
    }
    if (!strcmp(name, "system_v"))
        return system_v(*bytes);
    if (!strcmp(name, "shared_large"))
        *bytes = LARGE;
    if (!strncmp(name, "shared", 6))
        return mmap(NULL, *bytes, protection, anonymous | MAP_SHARED, -1, 0);
    if (!strncmp(name, "hugetlb", 7)) {
        *bytes = 2 * HUGE_PAGE;
        int share = strcmp(name, "hugetlb_shared") ? MAP_PRIVATE : MAP_SHARED;
        return mmap(NULL, *bytes, protection, anonymous | share | MAP_HUGETLB, -1, 0);
    }
    if (!strcmp(name, "thp")) {
        *bytes = 2 * HUGE_PAGE;
        char *raw = mmap(NULL, *bytes + HUGE_PAGE, protection, anonymous | MAP_PRIVATE, -1, 0);
        raw += -(uintptr_t)raw & (HUGE_PAGE - 1);
        madvise(raw, *bytes, MADV_HUGEPAGE);
        return raw;
    }
    area = mmap(NULL, *bytes, protection, anonymous | MAP_PRIVATE, -1, 0);
    if (!strcmp(name, "dontfork"))
        madvise(area, *bytes, MADV_DONTFORK);
    if (!strcmp(name, "wipeonfork"))
        madvise(area, *bytes, MADV_WIPEONFORK);
    return area;
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
    for (int k = 0; k + 2 < count && k < 32; k++) {
        struct area *area = &areas[used++];
        area->name = arguments[k + 2];
        area->bytes = 33 * PAGE;
        area->words = map_kind(area->name, arguments[1], &area->bytes);
        if (area->words == MAP_FAILED)
            die(area->name);
        for (size_t i = 0; i < area->bytes / 8; i++)
            area->words[i] = pattern_word(((uint64_t)k << 32) + i);
        fact("%s=%p\n%s_bytes=%zu\n", area->name, (void *)area->words, area->name, area->bytes);
        map_anonymous(PAGE, PROT_NONE, MAP_PRIVATE); /* the kernel joins no neighbours over this */
    }
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
