/* filled: a 32-bit address space with nothing left in it, in pieces of which each has one touched page: with
 * --holes zero and --preset full its core would be larger than 4 GiB.
 */
#include "target.h"

#define TOP 0xffffe000UL /* the end of a 32-bit program's address space on a 64-bit kernel */
#define PIECES 3072

/* Maps a gap, half by half where the kernel wants to keep some of it for itself. */
static void fill(unsigned long start, unsigned long end)
{
    if (end - start < PAGE)
        return;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    char *area = mmap((void *)start, end - start, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (area != MAP_FAILED) {
        *area = 1;
        return;
    }
    unsigned long middle = start + (end - start) / 2 / PAGE * PAGE;
    if (middle > start) {
        fill(start, middle);
        fill(middle, end);
    }
}

int main(void)
{
    static char text[1 << 16];
    target_begin();
    /* many small mappings: each takes a program header */
    char *small = map_anonymous(2 * PIECES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (int i = 0; i < PIECES; i++) {
        small[2 * i * PAGE] = small[(2 * i + 1) * PAGE] = 1;
        if (mprotect(small + 2 * i * PAGE, PAGE, PROT_READ))
            die("mprotect");
    }
    for (int round = 0; round < 2; round++) {
        int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
        unsigned long position = 16 * PAGE, start, end;
        FILE *maps = fdopen(fd, "r");
        setvbuf(maps, text, _IOFBF, sizeof text);
        static struct {
            unsigned long start, end;
        } gaps[64];
        int count = 0;
        char line[512];
        while (fgets(line, sizeof line, maps)) {
            if (sscanf(line, "%lx-%lx", &start, &end) != 2)
                die("maps");
            if (start > position && count < 64)
                gaps[count].start = position, gaps[count++].end = start;
            position = end;
        }
        if (position < TOP && count < 64)
            gaps[count].start = position, gaps[count++].end = TOP;
        fclose(maps);
        for (int i = 0; i < count; i++)
            fill(gaps[i].start, gaps[i].end);
    }
    target_ready();
    beat_forever();
}
