/* forked: an area that is shared with a child, page by page, until one of the two writes to it. */
#include "target.h"

#define BYTES (8UL << 20)

int main(void)
{
    target_begin();
    char *area = map_anonymous(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    madvise(area, BYTES, MADV_NOHUGEPAGE);
    fill_pattern(area, BYTES);
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(atoi(getenv("TARGET_READY")));
        for (;;)
            pause();
    }
    fact("area=%p\narea_bytes=%lu\n", (void *)area, BYTES);
    target_ready();
    beat_forever();
}
