/* follows ADDRESS BYTES FIRST: reads a core from standard input, ends well if that range is in it and holds the pattern.
 *
 * Word i of the range must be word FIRST + i of the pattern (target.h). Nothing seeks.
 */
#include "target.h"

#include <elf.h>

static uint64_t words[1 << 16];

static void take(void *place, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(0, (char *)place + done, bytes - done);
        if (got <= 0) {
            fprintf(stderr, "follows: the core is cut short\n");
            exit(1);
        }
        done += (size_t)got;
    }
}

static void skip(size_t bytes)
{
    for (size_t step; bytes; bytes -= step)
        take(words, step = bytes < sizeof words ? bytes : sizeof words);
}

int main(int count, char **arguments)
{
    Elf64_Ehdr header;
    unsigned long address = strtoul(arguments[1], NULL, 0), bytes = strtoul(arguments[2], NULL, 0);
    uint64_t word = strtoul(arguments[3], NULL, 0);
    take(&header, sizeof header);
    Elf64_Phdr *segments = calloc(header.e_phnum, sizeof *segments);
    take(segments, header.e_phnum * sizeof *segments);
    size_t position = sizeof header + header.e_phnum * sizeof *segments;
    for (Elf64_Phdr *segment = segments; segment < segments + header.e_phnum && bytes; segment++) {
        if (segment->p_type != PT_LOAD || address < segment->p_vaddr || address >= segment->p_vaddr + segment->p_filesz)
            continue;
        size_t before = address - segment->p_vaddr, left = segment->p_filesz - before;
        if (segment->p_offset + before < position)
            break; /* a hole that points back: not the pattern */
        skip(segment->p_offset + before - position);
        position = segment->p_offset + before;
        for (size_t step; left && bytes; left -= step, bytes -= step, address += step, position += step) {
            step = left < bytes ? left : bytes;
            take(words, step = step < sizeof words ? step : sizeof words);
            for (size_t k = 0; k < step / 8; k++, word++)
                if (words[k] != pattern_word(word)) {
                    fprintf(stderr, "follows: wrong at %#lx\n", address + 8 * k);
                    return 1;
                }
        }
    }
    while (read(0, words, sizeof words) > 0)
        ;
    if (bytes)
        fprintf(stderr, "follows: %#lx is not in the core\n", address);
    return bytes != 0;
}
