/* many COUNT: so many mappings of one page each, every one with a word of its own. */
#include "target.h"

int main(int count, char **arguments)
{
    target_begin();
    unsigned long pages = count > 1 ? strtoul(arguments[1], NULL, 0) : 1000;
    char *area = map_anonymous(pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    madvise(area, pages * PAGE, MADV_NOHUGEPAGE);
    for (unsigned long i = 0; i < pages; i++)
        *(uint64_t *)(area + i * PAGE) = pattern_word(i);
    for (unsigned long i = 0; i < pages; i += 2)
        if (mprotect(area + i * PAGE, PAGE, PROT_READ))
            die("mprotect");
    fact("area=%p\n", (void *)area);
    target_ready();
    beat_forever();
}
