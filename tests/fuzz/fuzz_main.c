/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer, as a unit test does:
 *
 *     x_fuzz FOLDER [SECONDS [FIRST]]    every file of the corpus, then changed ones for so long
 *     x_fuzz FILE                        this one
 *
 * The seed is CAIRN_SEED, or else of the time, and printed first. Run i is a function of the
 * corpus, the seed and i alone; FIRST is the i to begin with. The input at hand is in memory of
 * exactly its size. Whatever ends the process in the middle of a run, the input is left in
 * crash-SEED-I.bin of the working directory, and both commands that repeat it are printed.
 *
 * Invariant: no input is longer than INPUT_BYTES_MAX.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_BYTES_MAX = 64 * 1024, FILES_MAX = 1024, CHANGES_MAX = 6, RUNS_PER_LOOK = 64 };

static struct buf corpus[FILES_MAX];
static size_t n_corpus;

/* ---- the input at hand ---- */

static struct {
    uint8_t *data;
    size_t len;
    uint64_t seed, number; /* number 0: a file of the corpus, unchanged */
    const char *program, *folder;
    bool running;
} at_hand;

static void leave_input(void)
{
    unsigned long long seed = at_hand.seed, number = at_hand.number;
    char name[64];

    if (!at_hand.running)
        return;
    at_hand.running = false;
    snprintf(name, sizeof(name), "crash-%llu-%llu.bin", seed, number);
    FILE *f = fopen(name, "wb");
    if (f) {
        fwrite(at_hand.data, 1, at_hand.len, f);
        fclose(f);
    }
    fprintf(stderr, "run %llu of CAIRN_SEED=%llu failed; once more:\n    %s %s\n", number, seed,
            at_hand.program, name);
    if (at_hand.folder)
        fprintf(stderr, "    CAIRN_SEED=%llu %s %s 0 %llu\n", seed, at_hand.program, at_hand.folder,
                number);
}

static void on_signal(int number)
{
    leave_input();
    signal(number, SIG_DFL);
    raise(number);
}

/* The sanitizers end the process without a signal. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void watch_for_death(void)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTERM};

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], on_signal);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(leave_input);
}

static void run(struct bytes input)
{
    at_hand.data = mem_alloc_raw(input.len + !input.len);
    at_hand.len = input.len;
    if (input.len > 0)
        memcpy(at_hand.data, input.data, input.len);
    at_hand.running = true;
    LLVMFuzzerTestOneInput(at_hand.data, at_hand.len);
    at_hand.running = false;
    free(at_hand.data);
}

/* ---- the corpus ---- */

static bool file_read(const char *path, struct buf *ret)
{
    FILE *f = fopen(path, "rb");

    if (!f)
        return false;
    buf_reserve(ret, INPUT_BYTES_MAX);
    ret->len = fread(ret->data, 1, INPUT_BYTES_MAX, f);
    bool ok = !ferror(f);
    fclose(f);
    return ok;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool corpus_read(const char *folder)
{
    struct dirent **entries = NULL;
    int n = scandir(folder, &entries, NULL, compare_names);
    bool ok = n >= 0;

    for (int i = 0; i < n; i++) {
        _cleanup_(mem_freep) char *path = mem_printf("%s/%s", folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && n_corpus < FILES_MAX)
            ok &= file_read(path, &corpus[n_corpus++]);
        free(entries[i]);
    }
    free(entries);
    return ok && n_corpus > 0;
}

static void corpus_free(void)
{
    while (n_corpus > 0)
        buf_deinit(&corpus[--n_corpus]);
}

/* ---- changes ---- */

static size_t any_position(struct rng *rng, const struct buf *b)
{
    return (size_t)rng_below(rng, b->len + 1);
}

/* A number as a length or an id that somebody may have thought of. */
static uint64_t any_number(struct rng *rng)
{
    static const uint64_t odd[] = {0,         1,     2,        127,      128,       255,
                                   256,       65535, 1u << 26, 1u << 29, INT64_MAX, UINT64_MAX - 1,
                                   UINT64_MAX};
    uint64_t n = sizeof(odd) / sizeof(odd[0]);

    return rng_below(rng, 2) ? odd[rng_below(rng, n)] : rng_next(rng) >> rng_below(rng, 64);
}

static void replace(struct buf *b, size_t at, size_t len, struct bytes with)
{
    _cleanup_(buf_deinit) struct buf rest = BUF_NULL;

    check(at <= b->len && len <= b->len - at);
    buf_append(&rest, b->data + at + len, b->len - at - len);
    b->len = at;
    buf_append_bytes(b, with);
    buf_append_bytes(b, buf_bytes(&rest));
    if (b->len > INPUT_BYTES_MAX)
        b->len = INPUT_BYTES_MAX;
}

static struct bytes any_part(struct rng *rng, const struct buf *of)
{
    size_t at = any_position(rng, of), len = (size_t)rng_below(rng, 40);

    return bytes_of(of->data + at, len < of->len - at ? len : of->len - at);
}

static void insert_number(struct rng *rng, struct buf *b, size_t at)
{
    static const size_t sizes[] = {1, 4, 8};
    uint8_t bytes[VARINT_LEN_MAX];
    size_t len = varint_put(bytes, any_number(rng));

    if (rng_below(rng, 2) == 0) {
        u64_be_put(bytes, any_number(rng));
        len = sizes[rng_below(rng, 3)];
    }
    size_t over = rng_below(rng, 2) ? len : 0;
    replace(b, at, over < b->len - at ? over : b->len - at, bytes_of(bytes, len));
}

static void change(struct rng *rng, struct buf *b)
{
    size_t at = any_position(rng, b);
    struct bytes part = any_part(rng, b);
    _cleanup_(buf_deinit) struct buf copy = BUF_NULL;

    switch (rng_below(rng, 7)) {
    case 0:
        if (at < b->len)
            b->data[at] ^= (uint8_t)(1u << rng_below(rng, 8));
        break;
    case 1:
        if (at < b->len)
            b->data[at] = (uint8_t)rng_next(rng);
        break;
    case 2: insert_number(rng, b, at); break;
    case 3: replace(b, (size_t)(part.data - b->data), part.len, BYTES_NULL); break;
    case 4: b->len = at; break;
    case 5: /* something of its own once more, */
        buf_append_bytes(&copy, part);
        replace(b, at, 0, buf_bytes(&copy));
        break;
    default: /* or of another */
        replace(b, at, 0, any_part(rng, &corpus[rng_below(rng, n_corpus)]));
    }
}

static void run_changed(uint64_t seed, uint64_t number)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct rng rng;

    rng_init(&rng, seed);
    rng_init(&rng, rng_next(&rng) + number); /* seeds side by side have no runs in common */
    buf_append_bytes(&b, buf_bytes(&corpus[rng_below(&rng, n_corpus)]));
    buf_reserve(&b, 1);
    for (uint64_t n = 1 + rng_below(&rng, CHANGES_MAX); n > 0; n--)
        change(&rng, &b);
    at_hand.number = number;
    run(buf_bytes(&b));
}

/* ---- */

static int run_file(const char *path)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    if (!file_read(path, &b))
        return 1;
    run(buf_bytes(&b));
    return 0;
}

static int run_folder(uint64_t seconds, uint64_t first)
{
    uint64_t end = clock_mono_ms() + 1000 * seconds, number = first;
    const char *text = getenv("CAIRN_SEED");

    at_hand.seed = text && *text ? strtoull(text, NULL, 10) : clock_wall_ns() / 1000;
    fprintf(stderr, "CAIRN_SEED=%llu %s %s %llu\n", (unsigned long long)at_hand.seed,
            at_hand.program, at_hand.folder, (unsigned long long)seconds);
    watch_for_death();
    for (size_t i = 0; i < n_corpus; i++)
        run(buf_bytes(&corpus[i]));
    do {
        for (int i = 0; i < RUNS_PER_LOOK; i++)
            run_changed(at_hand.seed, number++);
    } while (clock_mono_ms() < end);
    printf("seed %llu: %zu files, %llu changed ones\n", (unsigned long long)at_hand.seed, n_corpus,
           (unsigned long long)(number - first));
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t seconds = argc > 2 ? strtoull(argv[2], NULL, 10) : 5;
    uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    struct stat st;

    if (argc < 2 || stat(argv[1], &st) != 0) {
        fprintf(stderr, "usage: %s FOLDER|FILE [SECONDS [FIRST]]\n", argv[0]);
        return 2;
    }
    at_hand.program = argv[0];
    if (!S_ISDIR(st.st_mode))
        return run_file(argv[1]);
    at_hand.folder = argv[1];
    if (!corpus_read(argv[1])) {
        fprintf(stderr, "no corpus in %s\n", argv[1]);
        return 2;
    }
    int r = run_folder(seconds, first);
    corpus_free();
    return r;
}
