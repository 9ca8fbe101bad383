/* One mapping of every kind that the policy tells apart. argv[1]: a folder for the mapped files. */
#include "target.h"

static void *map_file(const char *folder, const char *name, size_t bytes, int flags)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    void *page = malloc(bytes);
    fill_pattern(page, bytes);
    if (fd < 0 || write(fd, page, bytes) != (ssize_t)bytes)
        die(path);
    free(page);
    void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (area == MAP_FAILED)
        die(path);
    close(fd);
    fact("%s=%p\n", name, area);
    return area;
}

static void *filled(const char *name, int flags)
{
    void *area = map_anonymous(4 * PAGE, PROT_READ | PROT_WRITE, flags);
    fill_pattern(area, 4 * PAGE);
    fact("%s=%p\n", name, area);
    return area;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : ".";
    target_begin();
    filled("private", MAP_PRIVATE);
    /* a gap on either side keeps the kernel from joining neighbours */
    map_anonymous(PAGE, PROT_NONE, MAP_PRIVATE);
    madvise(filled("dontdump", MAP_PRIVATE), 4 * PAGE, MADV_DONTDUMP);
    map_anonymous(PAGE, PROT_NONE, MAP_PRIVATE);
    mprotect(filled("protnone", MAP_PRIVATE), 4 * PAGE, PROT_NONE);
    filled("shared", MAP_SHARED);
    map_file(folder, "private_file", 4 * PAGE, MAP_PRIVATE);
    map_file(folder, "shared_file", 4 * PAGE, MAP_SHARED);
    char *written = map_file(folder, "written_file", 4 * PAGE, MAP_PRIVATE);
    written[0] = 'w';
    /* a written first page, and three that lie behind the end of the file: reading them is SIGBUS */
    char path[4096];
    snprintf(path, sizeof path, "%s/truncated_file", folder);
    if (argc > 2) {
        char *truncated = map_file(folder, "truncated_file", 4 * PAGE, MAP_PRIVATE);
        truncated[0] = 't';
        if (truncate(path, PAGE))
            die("truncate");
    }
    int memory = memfd_create("corepipe-test", MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, 4 * PAGE))
        die("memfd");
    void *area = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    fill_pattern(area, 4 * PAGE);
    fact("memfd=%p\n", area);
    target_ready();
    beat_forever();
}
