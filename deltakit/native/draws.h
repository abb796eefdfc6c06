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

#if defined(BY_HAND)
enum { WORDS = OFTEN / 64 }; /* at a time: words that are waited for are few among many */

/* words number `word` .. `word` + 7 of the stream: a byte for each of 64 entries */
BY_HAND static inline __m512i splitmix_8(uint64_t key, uint64_t word)
{
    const uint64_t step = 0x9e3779b97f4a7c15u;
    const __m512i steps = _mm512_set_epi64((long long)(8 * step), (long long)(7 * step),
                                           (long long)(6 * step), (long long)(5 * step),
                                           (long long)(4 * step), (long long)(3 * step),
                                           (long long)(2 * step), (long long)step);
    __m512i z = _mm512_add_epi64(_mm512_set1_epi64((long long)(key + word * step)), steps);
    z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 30));
    z = _mm512_mullo_epi64(z, _mm512_set1_epi64((long long)0xbf58476d1ce4e5b9u));
    z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 27));
    z = _mm512_mullo_epi64(z, _mm512_set1_epi64((long long)0x94d049bb133111ebu));
    return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
}

/* keep those entries that are level, of up to 64 words of them, where the other stream says so */
BY_HAND static inline void settle_levels(const Draws *draws, uint64_t index, int words,
                                         const uint64_t *level, uint64_t *below)
{
    uint64_t any = 0; /* a bit for each word: a few have levels, which a branch each would miss */
    for (int i = 0; i < words; i += 8) {
        const __mmask8 there = (__mmask8)(words - i < 8 ? (1 << (words - i)) - 1 : 0xff);
        const __m512i eight = _mm512_maskz_loadu_epi64(there, level + i);
        any |= (uint64_t)_mm512_test_epi64_mask(eight, eight) << i;
    }
    for (; any; any &= any - 1) {
        const int i = lowest_bit(any);
        for (uint64_t set = level[i]; set; set &= set - 1) {
            const int bit = lowest_bit(set);
            const uint64_t word = splitmix(draws->level_key, index + (uint64_t)(64 * i + bit));
            below[i] |= (uint64_t)(word >> 11 < draws->limit) << bit;
        }
    }
}

/* bits of `count` entries from `at` of the slice on, up to OFTEN, and what comes of a last word */
BY_HAND static void draw_words(const Draws *draws, Py_ssize_t at, Py_ssize_t count,
                               uint64_t kept[WORDS])
{
    const uint64_t index = draws->start + (uint64_t)at, first = index / 8;
    const int skip = (int)(index % 8), words = (int)((count + 63) / 64), drawn = words + (skip > 0);
    const __m512i whole = _mm512_set1_epi8((char)draws->whole);
    uint64_t below[WORDS + 1], level[WORDS + 1]; /* of entries from 8 * first on */
    for (int i = 0; i < drawn; i++) {
        __m512i bytes = splitmix_8(draws->key, first + 8 * (uint64_t)i);
        below[i] = _mm512_cmplt_epu8_mask(bytes, whole);
        level[i] = _mm512_cmpeq_epu8_mask(bytes, whole);
    }
    for (int i = 0; draws->limit && i < drawn; i += 64)
        settle_levels(draws, 8 * first + 64 * (uint64_t)i, drawn - i < 64 ? drawn - i : 64,
                      level + i, below + i);
    if (!skip) memcpy(kept, below, sizeof *kept * (size_t)words);
    else for (int i = 0; i < words; i++) kept[i] = below[i] >> skip | below[i + 1] << (64 - skip);
}

BY_HAND static void draw_bits_by_hand(const Draws *draws, Py_ssize_t n, uint8_t *bits)
{
    uint64_t words[WORDS];
    for (Py_ssize_t at = 0; at < n; at += OFTEN) {
        Py_ssize_t count = n - at < OFTEN ? n - at : OFTEN;
        draw_words(draws, at, count, words);
        if (count % 64) words[count / 64] &= ((uint64_t)1 << count % 64) - 1;
        memcpy(bits + at / 8, words, (size_t)(count + 7) / 8);
    }
}

BY_HAND static void draw_by_hand(const Draws *draws, Py_ssize_t at, Py_ssize_t count, uint8_t *kept)
{
    uint64_t words[WORDS];
    draw_words(draws, at, count, words);
    for (int i = 0; 64 * i < count; i++) {
        uint64_t among = count - 64 * i < 64 ? ((uint64_t)1 << (count - 64 * i)) - 1 : ~(uint64_t)0;
        _mm512_mask_storeu_epi8(kept + 64 * i, among, _mm512_maskz_set1_epi8(words[i], 1));
    }
}
#endif

/* 1 where entries at .. at + count of the slice are kept, at most CHUNK of them */
INLINE void draw(const Draws *draws, Py_ssize_t at, Py_ssize_t count, uint8_t *restrict kept)
{
#if defined(BY_HAND)
    if (by_hand) {
        draw_by_hand(draws, at, count, kept);
        return;
    }
#endif
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

/* a bit for each of n entries, the first entry's the lowest of the first byte; 0 past the last */
WIDE static void draw_bits(const Draws *draws, Py_ssize_t n, uint8_t *bits)
{
#if defined(BY_HAND)
    if (by_hand) {
        draw_bits_by_hand(draws, n, bits);
        return;
    }
#endif
    CHUNKS(n, {
        uint8_t kept[CHUNK] = {0};
        draw(draws, at, count, kept);
        for (Py_ssize_t i = 0; i < count; i += 8) bits[(at + i) / 8] = packed(kept + i);
    });
}

#endif
