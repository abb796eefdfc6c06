/* Random masks: counters hashed by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). */

#ifndef DELTAKIT_DRAWS_H
#define DELTAKIT_DRAWS_H

#include "floats.h"

/* Entry i of a parameter has byte i of the stream of `key`. It is kept where that is below `whole`,
 * and where it is level and the upper 53 bits of word i of the stream of `level_key` are below
 * `limit`. */
typedef struct {
    uint64_t key, level_key, limit;
    uint8_t whole;
    uint64_t start; /* the index of the slice's first entry */
} Draws;

INLINE uint64_t splitmix(uint64_t key, uint64_t index)
{
    uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* 1 where entries at .. at + count of the slice are kept, at most CHUNK of them */
INLINE void draw(const Draws *draws, Py_ssize_t at, Py_ssize_t count, uint8_t *restrict kept)
{
    uint64_t words[CHUNK / 8 + 1];
    const uint8_t whole = draws->whole; /* of a byte's width, as the loop's lanes are */
    uint8_t bytes[CHUNK + 8];
    uint8_t level[CHUNK] = {0};
    uint64_t index = draws->start + (uint64_t)at;
    for (int i = 0; i <= CHUNK / 8; i++) words[i] = splitmix(draws->key, index / 8 + (uint64_t)i);
    memcpy(bytes, words, sizeof words);
    const uint8_t *own = bytes + index % 8;
    for (Py_ssize_t i = 0; i < count; i++) {
        kept[i] = own[i] < whole;
        level[i] = own[i] == whole;
    }
    if (!draws->limit) return;
    for (uint32_t any = eights(level); any; any &= any - 1) {
        Py_ssize_t first = 8 * lowest_bit(any);
        for (Py_ssize_t i = first; i < first + 8; i++)
            if (level[i])
                kept[i] = splitmix(draws->level_key, index + (uint64_t)i) >> 11 < draws->limit;
    }
}

WIDE static void draw_all(const Draws *draws, Py_ssize_t n, uint8_t *kept)
{
    CHUNKS(n, { draw(draws, at, count, kept + at); });
}

#endif
