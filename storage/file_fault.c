/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The faulty disk. Only for tests; see the header for what it models. Thread: one.
 *
 * Invariants
 *  (I1) Synced data and directory changes are never lost, unless by fault_flip() and its like.
 *  (I2) After a failed sync, the cache still shows what was written while the disk does not have
 *       it, and no later sync brings it there: what Linux file systems do.
 *  (I3) All randomness comes from the seed.
 */
#include "storage/file_fault.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"

enum { SECTOR_BYTES = 512, FILE_BYTES_MAX = 8 << 20, INODES_MAX = 128, NAMES_MAX = 128 };

struct inode {
    bool used;
    unsigned opened;
    uint64_t size;
    uint64_t disk_size;
    uint8_t *cache; /* as long as size needs */
    uint8_t *disk;
    bool *dirty; /* per sector */
    uint64_t cap;
};

struct name {
    char *path;
    int inode;
};

struct names {
    struct name items[NAMES_MAX];
    size_t len;
};

struct change {
    char *from; /* NULL: created */
    char *to;   /* NULL: removed */
    int inode;
};

struct fault_image {
    struct inode inodes[INODES_MAX];
    struct names seen; /* what dir_list shows */
    struct names durable;
    struct change pending[NAMES_MAX];
    size_t n_pending;
    bool dir_made;
};

struct file {
    int inode;
};

static struct fault_image *disk;
static struct rng rng;
static enum fault_kind armed;
static uint64_t armed_at, calls, syncs;
static bool met, power_off;

/* ---- names ---- */

static int names_find(const struct names *n, const char *path)
{
    for (size_t i = 0; i < n->len; i++)
        if (strcmp(n->items[i].path, path) == 0)
            return (int)i;
    return -1;
}

static void names_remove(struct names *n, const char *path)
{
    int i = names_find(n, path);
    if (i < 0)
        return;
    free(n->items[i].path);
    n->items[i] = n->items[--n->len];
}

static void names_put(struct names *n, const char *path, int inode)
{
    names_remove(n, path);
    check(n->len < NAMES_MAX);
    n->items[n->len++] = (struct name){.path = mem_strdup(path), .inode = inode};
}

static void names_clear(struct names *n)
{
    while (n->len)
        free(n->items[--n->len].path);
}

static void names_copy(struct names *to, const struct names *from)
{
    names_clear(to);
    for (size_t i = 0; i < from->len; i++)
        names_put(to, from->items[i].path, from->items[i].inode);
}

static void change_apply(struct names *n, const struct change *c)
{
    if (c->from) {
        int i = names_find(n, c->from);
        if (i < 0 || n->items[i].inode != c->inode)
            return; /* an earlier change of this name was lost */
        names_remove(n, c->from);
    }
    if (c->to)
        names_put(n, c->to, c->inode);
}

static void change_free(struct change *c)
{
    free(c->from);
    free(c->to);
}

static void change_add(const char *from, const char *to, int inode)
{
    check(disk->n_pending < NAMES_MAX);
    struct change c = {.from = mem_strdup(from), .to = mem_strdup(to), .inode = inode};
    change_apply(&disk->seen, &c);
    disk->pending[disk->n_pending++] = c;
}

static void pending_clear(void)
{
    while (disk->n_pending)
        change_free(&disk->pending[--disk->n_pending]);
}

/* ---- contents ---- */

static void inode_reserve(struct inode *f, uint64_t size)
{
    check(size <= FILE_BYTES_MAX);
    if (size <= f->cap)
        return;
    uint64_t cap = (size + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
    if (cap < 2 * f->cap)
        cap = 2 * f->cap;
    f->cache = mem_realloc(f->cache, cap);
    f->disk = mem_realloc(f->disk, cap);
    f->dirty = mem_realloc(f->dirty, cap / SECTOR_BYTES);
    memset(f->cache + f->cap, 0, cap - f->cap);
    memset(f->disk + f->cap, 0, cap - f->cap);
    memset(f->dirty + f->cap / SECTOR_BYTES, 0, (cap - f->cap) / SECTOR_BYTES);
    f->cap = cap;
}

static void sector_write_back(struct inode *f, uint64_t sector)
{
    memcpy(f->disk + sector * SECTOR_BYTES, f->cache + sector * SECTOR_BYTES, SECTOR_BYTES);
    f->dirty[sector] = false;
}

static void inode_deinit(struct inode *f)
{
    free(f->cache);
    free(f->disk);
    free(f->dirty);
    *f = (struct inode){0};
}

/* The kernel writes something back now and then. */
static void write_back_some(struct inode *f)
{
    if (rng_below(&rng, 4) != 0)
        return;
    for (uint64_t s = 0; s < f->cap / SECTOR_BYTES; s++)
        if (f->dirty[s] && rng_below(&rng, 3) == 0)
            sector_write_back(f, s);
}

static void inode_power_cycle(struct inode *f)
{
    bool all = rng_below(&rng, 4) == 0;
    for (uint64_t s = 0; s < f->cap / SECTOR_BYTES; s++) {
        if (f->dirty[s] && (all || rng_below(&rng, 2) == 0))
            sector_write_back(f, s);
        f->dirty[s] = false;
    }
    if (f->size != f->disk_size && rng_below(&rng, 2) == 0)
        f->disk_size = f->size;
    f->size = f->disk_size;
    if (f->cap)
        memcpy(f->cache, f->disk, f->cap);
}

/* ---- faults ---- */

/* Negative: the call fails. */
static int fault_call(void)
{
    if (power_off)
        return -EIO;
    calls++;
    if (armed == FAULT_NONE || calls != armed_at)
        return 0;
    met = true;
    power_off = armed == FAULT_POWER;
    armed = FAULT_NONE;
    return -EIO;
}

void fault_reset(uint64_t seed)
{
    if (disk)
        disk = fault_image_free(disk);
    disk = mem_new(struct fault_image);
    rng_init(&rng, seed);
    armed = FAULT_NONE;
    armed_at = calls = syncs = 0;
    met = power_off = false;
}

void fault_arm(uint64_t call, enum fault_kind kind)
{
    armed = kind;
    armed_at = calls + call;
    met = false;
}

bool fault_met(void)
{
    return met;
}

bool fault_power_is_off(void)
{
    return power_off;
}

uint64_t fault_calls(void)
{
    return calls;
}

uint64_t fault_syncs(void)
{
    return syncs;
}

void fault_power_cycle(void)
{
    bool in_order = rng_below(&rng, 2) == 0;
    size_t n = rng_below(&rng, disk->n_pending + 1);
    for (size_t i = 0; i < disk->n_pending; i++)
        if (in_order ? i < n : rng_below(&rng, 2) == 0)
            change_apply(&disk->durable, &disk->pending[i]);
    pending_clear();
    names_copy(&disk->seen, &disk->durable);
    for (int i = 0; i < INODES_MAX; i++)
        if (disk->inodes[i].used)
            inode_power_cycle(&disk->inodes[i]);
    armed = FAULT_NONE;
    power_off = false;
}

/* ---- images ---- */

static void *copy_bytes(const void *p, size_t len)
{
    void *copy = mem_alloc_raw(len);
    if (len)
        memcpy(copy, p, len);
    return copy;
}

static struct fault_image *image_copy(const struct fault_image *from)
{
    struct fault_image *to = mem_new(struct fault_image);
    names_copy(&to->seen, &from->seen);
    names_copy(&to->durable, &from->durable);
    for (size_t i = 0; i < from->n_pending; i++) {
        const struct change *c = &from->pending[i];
        to->pending[to->n_pending++] = (struct change){
            .from = mem_strdup(c->from), .to = mem_strdup(c->to), .inode = c->inode};
    }
    for (int i = 0; i < INODES_MAX; i++) {
        const struct inode *f = &from->inodes[i];
        if (!f->used)
            continue;
        to->inodes[i] = *f;
        to->inodes[i].opened = 0;
        to->inodes[i].cache = copy_bytes(f->cache, f->cap);
        to->inodes[i].disk = copy_bytes(f->disk, f->cap);
        to->inodes[i].dirty = copy_bytes(f->dirty, f->cap / SECTOR_BYTES);
    }
    to->dir_made = from->dir_made;
    return to;
}

struct fault_image *fault_save(void)
{
    return image_copy(disk);
}

void fault_restore(const struct fault_image *image)
{
    for (int i = 0; i < INODES_MAX; i++)
        check(!disk->inodes[i].opened);
    fault_image_free(disk);
    disk = image_copy(image);
    armed = FAULT_NONE;
    power_off = false;
}

struct fault_image *fault_image_free(struct fault_image *image)
{
    if (!image)
        return NULL;
    names_clear(&image->seen);
    names_clear(&image->durable);
    for (size_t i = 0; i < image->n_pending; i++)
        change_free(&image->pending[i]);
    for (int i = 0; i < INODES_MAX; i++)
        inode_deinit(&image->inodes[i]);
    free(image);
    return NULL;
}

/* ---- damage ---- */

static struct inode *inode_at(const char *path)
{
    int i = names_find(&disk->seen, path);
    return i < 0 ? NULL : &disk->inodes[disk->seen.items[i].inode];
}

uint64_t fault_size(const char *path)
{
    struct inode *f = inode_at(path);
    return f ? f->size : 0;
}

void fault_flip(const char *path, uint64_t bit)
{
    struct inode *f = inode_at(path);
    check(f && bit / 8 < f->size);
    f->cache[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    f->disk[bit / 8] ^= (uint8_t)(1u << (bit % 8));
}

void fault_cut(const char *path, uint64_t size)
{
    struct inode *f = inode_at(path);
    check(f && size <= f->size);
    f->size = f->disk_size = size;
}

void fault_copy(const char *path, uint64_t offset, uint8_t *data, size_t len)
{
    struct inode *f = inode_at(path);
    check(f && offset + len <= f->size);
    memcpy(data, f->cache + offset, len);
}

void fault_patch(const char *path, uint64_t offset, const uint8_t *data, size_t len)
{
    struct inode *f = inode_at(path);
    check(f && offset + len <= f->size);
    memcpy(f->cache + offset, data, len);
    memcpy(f->disk + offset, data, len);
}

/* ---- file.h ---- */

static bool inode_named(int inode)
{
    for (size_t i = 0; i < disk->seen.len; i++)
        if (disk->seen.items[i].inode == inode)
            return true;
    for (size_t i = 0; i < disk->durable.len; i++)
        if (disk->durable.items[i].inode == inode)
            return true;
    for (size_t i = 0; i < disk->n_pending; i++)
        if (disk->pending[i].inode == inode)
            return true;
    return false;
}

static int inode_new(void)
{
    int i = 0;
    while (i < INODES_MAX && disk->inodes[i].used && (disk->inodes[i].opened || inode_named(i)))
        i++;
    check(i < INODES_MAX);
    inode_deinit(&disk->inodes[i]);
    disk->inodes[i].used = true;
    return i;
}

int file_open(struct file **ret, const char *path, int flags)
{
    int i = names_find(&disk->seen, path);
    if (power_off)
        return -EIO;
    if (i < 0 && !(flags & FILE_CREATE))
        return -ENOENT;
    if (i >= 0 && (flags & FILE_CREATE) && (flags & FILE_EXCLUSIVE))
        return -EEXIST;
    int inode;
    if (i >= 0) {
        inode = disk->seen.items[i].inode;
    } else {
        if (fault_call() < 0)
            return -EIO;
        inode = inode_new();
        change_add(NULL, path, inode);
    }
    struct file *f = mem_new(struct file);
    f->inode = inode;
    disk->inodes[inode].opened++;
    *ret = f;
    return 0;
}

struct file *file_close(struct file *f)
{
    if (!f)
        return NULL;
    check(disk->inodes[f->inode].opened > 0);
    disk->inodes[f->inode].opened--;
    free(f);
    return NULL;
}

int file_size(struct file *f, uint64_t *ret)
{
    *ret = disk->inodes[f->inode].size;
    return power_off ? -EIO : 0;
}

int file_read(struct file *f, uint64_t offset, void *data, size_t len, size_t *ret_len)
{
    if (power_off)
        return -EIO;
    const struct inode *n = &disk->inodes[f->inode];
    uint64_t left = offset < n->size ? n->size - offset : 0;
    if (len > left)
        len = (size_t)left;
    if (len)
        memcpy(data, n->cache + offset, len);
    *ret_len = len;
    return 0;
}

int file_write(struct file *f, uint64_t offset, const void *data, size_t len)
{
    struct inode *n = &disk->inodes[f->inode];
    bool was_off = power_off;
    int r = fault_call();
    if (was_off)
        return -EIO;
    if (r < 0)
        len = (size_t)rng_below(&rng, len + 1);
    inode_reserve(n, offset + len);
    if (len)
        memcpy(n->cache + offset, data, len);
    for (uint64_t s = offset / SECTOR_BYTES; s * SECTOR_BYTES < offset + len; s++)
        n->dirty[s] = true;
    if (offset + len > n->size)
        n->size = offset + len;
    write_back_some(n);
    return r;
}

int file_sync(struct file *f)
{
    struct inode *n = &disk->inodes[f->inode];
    bool was_off = power_off;
    int r = fault_call();
    if (was_off || power_off)
        return -EIO;
    syncs++;
    for (uint64_t s = 0; s < n->cap / SECTOR_BYTES; s++) {
        if (n->dirty[s] && r == 0)
            sector_write_back(n, s);
        n->dirty[s] = false; /* (I2) */
    }
    if (r == 0)
        n->disk_size = n->size;
    return r;
}

int file_truncate(struct file *f, uint64_t size)
{
    if (fault_call() < 0)
        return -EIO;
    struct inode *n = &disk->inodes[f->inode];
    inode_reserve(n, size);
    if (size < n->size)
        memset(n->cache + size, 0, n->size - size);
    n->size = size;
    return 0;
}

int file_rename(const char *from, const char *to)
{
    if (fault_call() < 0)
        return -EIO;
    int i = names_find(&disk->seen, from);
    if (i < 0)
        return -ENOENT;
    change_add(from, to, disk->seen.items[i].inode);
    return 0;
}

int file_remove(const char *path)
{
    if (fault_call() < 0)
        return -EIO;
    int i = names_find(&disk->seen, path);
    if (i < 0)
        return -ENOENT;
    change_add(path, NULL, disk->seen.items[i].inode);
    return 0;
}

int file_exists(const char *path, bool *ret)
{
    if (power_off)
        return -EIO;
    *ret = names_find(&disk->seen, path) >= 0;
    return 0;
}

int dir_make(const char *path)
{
    if (power_off)
        return -EIO;
    disk->dir_made = true;
    return 0;
}

int dir_sync(const char *path)
{
    if (fault_call() < 0)
        return -EIO;
    for (size_t i = 0; i < disk->n_pending; i++)
        change_apply(&disk->durable, &disk->pending[i]);
    pending_clear();
    return 0;
}

int dir_list(const char *path, int (*visit)(void *arg, const char *name), void *arg)
{
    if (power_off)
        return -EIO;
    if (!disk->dir_made)
        return -ENOENT;
    size_t len = strlen(path);
    for (size_t i = 0; i < disk->seen.len; i++) {
        const char *p = disk->seen.items[i].path;
        if (strncmp(p, path, len) != 0 || p[len] != '/')
            continue;
        int r = visit(arg, p + len + 1);
        if (r)
            return r;
    }
    return 0;
}

int file_lock(struct file **ret, const char *path)
{
    return file_open(ret, path, FILE_READ | FILE_WRITE | FILE_CREATE);
}
