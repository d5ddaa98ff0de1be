/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulated disks (see disk.h).
 *
 * Invariants:
 *   (I1) synced data and names are never lost, unless disk_flip() does it.
 *   (I2) after a failed sync the cache shows what was written, the disk does not have it, and no
 *        later sync brings it there: what Linux file systems do.
 *   (I3) a name is durable once its directory was synced; until then each change of it may come
 *        through or be lost with the power.
 *
 * Thread: the only one.
 */
#include "tests/sim/disk.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "tests/sim/counters.h"
#include "tests/sim/disk_names.h"

enum { SECTOR_BYTES = 512 };

struct inode {
    unsigned refs; /* names, pending changes and open files */
    uint64_t size;
    uint64_t disk_size;
    uint8_t *cache;
    uint8_t *disk;
    uint8_t *dirty; /* per sector */
    uint64_t cap;
    uint64_t dirty_from, dirty_to; /* sectors that may be dirty */
    uint64_t written_from;         /* since the last sync; UINT64_MAX: nothing */
    uint64_t settled;              /* before the writes of the last sync: synced earlier */
};

struct file {
    struct disk *d;
    struct inode *inode;
};

struct disk {
    unsigned number;
    struct process *process;
    struct rng rng;
    struct disk_faults faults;
    struct names seen;
    struct names durable;
    struct changes pending;
    uint64_t calls, errors;
    uint64_t armed_at; /* 0: not */
    enum disk_end armed_end;
    bool met;
};

static struct disk *disks[DISKS_MAX];

/* ---- contents ---- */

struct inode *inode_ref(struct inode *f)
{
    if (f)
        f->refs++;
    return f;
}

void inode_unref(struct inode *f)
{
    if (!f || --f->refs > 0)
        return;
    free(f->cache);
    free(f->disk);
    free(f->dirty);
    free(f);
}

static struct inode *inode_new(void)
{
    struct inode *f = mem_new(struct inode);

    f->written_from = UINT64_MAX;
    return f;
}

static void inode_reserve(struct inode *f, uint64_t size)
{
    check(size <= DISK_FILE_BYTES_MAX);
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
    f->dirty[sector] = 0;
}

static void mark_dirty(struct inode *f, uint64_t from, uint64_t to)
{
    if (from >= to)
        return;
    uint64_t first = from / SECTOR_BYTES, last = (to - 1) / SECTOR_BYTES;
    if (f->dirty_from == f->dirty_to)
        f->dirty_from = f->dirty_to = first;
    memset(f->dirty + first, 1, last - first + 1);
    f->dirty_from = first < f->dirty_from ? first : f->dirty_from;
    f->dirty_to = last + 1 > f->dirty_to ? last + 1 : f->dirty_to;
}

/* The kernel writes something back now and then. */
static void write_back_some(struct disk *d, struct inode *f)
{
    if (rng_below(&d->rng, 16) != 0)
        return;
    for (uint64_t s = f->dirty_from; s < f->dirty_to; s++)
        if (f->dirty[s] && rng_below(&d->rng, 3) == 0)
            sector_write_back(f, s);
}

static void inode_power_cycle(struct disk *d, struct inode *f)
{
    bool all = rng_below(&d->rng, 4) == 0, none = rng_below(&d->rng, 4) == 0;

    for (uint64_t s = f->dirty_from; s < f->dirty_to; s++) {
        if (f->dirty[s] && !none && (all || rng_below(&d->rng, 2) == 0))
            sector_write_back(f, s);
        f->dirty[s] = 0;
    }
    f->dirty_from = f->dirty_to = 0;
    if (f->size != f->disk_size && rng_below(&d->rng, 2) == 0)
        f->disk_size = f->size;
    f->size = f->disk_size;
    if (f->cap)
        memcpy(f->cache, f->disk, f->cap);
}

/* ---- boundaries ---- */

static void die(struct disk *d)
{
    d->met = true;
    process_kill(d->process);
}

static bool dies_here(struct disk *d)
{
    d->calls++;
    return d->armed_at != 0 && d->calls >= d->armed_at && kernel_process() == d->process;
}

static int boundary(struct disk *d)
{
    if (dies_here(d))
        die(d);
    if (kernel_process() && d->faults.call_ns_max && rng_below(&d->rng, 8) == 0)
        fiber_sleep(rng_below(&d->rng, d->faults.call_ns_max));
    return 0;
}

static int error_here(struct disk *d, uint32_t ppm)
{
    if (!ppm || rng_below(&d->rng, 1000000) >= ppm || kernel_process() != d->process)
        return 0;
    d->errors++;
    count(COUNT_DISK_ERRORS, 1);
    return -EIO;
}

static void sync_takes_time(struct disk *d)
{
    const struct disk_faults *f = &d->faults;
    uint64_t ns = f->sync_ns_min;

    if (!kernel_process())
        return;
    if (f->sync_ns_max > f->sync_ns_min)
        ns += rng_below(&d->rng, f->sync_ns_max - f->sync_ns_min);
    if (f->stall_ppm && rng_below(&d->rng, 1000000) < f->stall_ppm)
        ns += rng_below(&d->rng, f->stall_ns_max);
    fiber_sleep(ns);
}

/* ---- the machine's side ---- */

struct disk *disk_new(unsigned number, struct process *p, uint64_t seed)
{
    struct disk *d = mem_new(struct disk);

    check(number > 0 && number < DISKS_MAX && !disks[number]);
    d->number = number;
    d->process = p;
    rng_init(&d->rng, seed);
    disks[number] = d;
    return d;
}

void disk_wipe(struct disk *d)
{
    names_clear(&d->seen);
    names_clear(&d->durable);
    changes_clear(&d->pending);
}

void disks_free(void)
{
    for (unsigned i = 0; i < DISKS_MAX; i++) {
        if (!disks[i])
            continue;
        disk_wipe(disks[i]);
        names_deinit(&disks[i]->seen);
        names_deinit(&disks[i]->durable);
        changes_deinit(&disks[i]->pending);
        free(disks[i]);
        disks[i] = NULL;
    }
}

struct disk *disk_of(const char *path)
{
    unsigned number = 0;

    if (path[0] != '/' || !isdigit((unsigned char)path[1]))
        return NULL;
    for (path++; isdigit((unsigned char)*path); path++)
        number = 10 * number + (unsigned)(*path - '0');
    check(number < DISKS_MAX && disks[number] && (*path == '/' || *path == '\0'));
    return disks[number];
}

struct disk_faults *disk_faults(struct disk *d)
{
    return &d->faults;
}

void disk_arm(struct disk *d, uint64_t call, enum disk_end end)
{
    d->armed_at = call ? d->calls + call : 0;
    d->armed_end = end;
}

uint64_t disk_errors(const struct disk *d)
{
    return d->errors;
}

bool disk_met_end(const struct disk *d)
{
    return d->met;
}

enum disk_end disk_reboot(struct disk *d, enum disk_end end)
{
    if (d->met)
        end = d->armed_end;
    d->met = false;
    d->armed_at = 0;
    if (end == DISK_KILL)
        return end;
    changes_power_cycle(&d->pending, &d->durable, &d->rng);
    names_copy(&d->seen, &d->durable);
    for (size_t i = 0; i < d->seen.len; i++)
        if (d->seen.items[i].inode)
            inode_power_cycle(d, d->seen.items[i].inode);
    return end;
}

bool disk_flip(struct disk *d, const char *dir)
{
    struct inode *candidates[64];
    size_t n = 0, len = strlen(dir);

    for (size_t i = 0; i < d->seen.len && n < 64; i++) {
        const struct name *name = &d->seen.items[i];
        if (name->inode && name->inode->settled > 0 && strncmp(name->path, dir, len) == 0)
            candidates[n++] = name->inode;
    }
    if (n == 0)
        return false;
    struct inode *f = candidates[rng_below(&d->rng, n)];
    uint64_t bit = rng_below(&d->rng, f->settled * 8);
    f->cache[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    f->disk[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    return true;
}

bool disk_has(struct disk *d, const char *path)
{
    return names_find(&d->seen, path) != NULL;
}

void disk_drop(struct disk *d, const char *path)
{
    names_drop(&d->seen, path);
    names_drop(&d->durable, path);
}

static void copy_file(struct disk *to_disk, const struct inode *from, const char *to)
{
    struct inode *f = inode_new();

    inode_reserve(f, from->size);
    if (from->size > 0) {
        memcpy(f->cache, from->cache, from->size);
        memcpy(f->disk, from->cache, from->size);
    }
    f->size = f->disk_size = from->size;
    names_put(&to_disk->seen, to, f);
    names_put(&to_disk->durable, to, f);
}

void disk_copy(const char *from, const char *to)
{
    struct disk *a = disk_of(from), *b = disk_of(to);
    size_t len = strlen(from);

    for (size_t i = 0; i < a->seen.len; i++) {
        const struct name *n = &a->seen.items[i];
        if (strncmp(n->path, from, len) != 0 || (n->path[len] != '\0' && n->path[len] != '/'))
            continue;
        _cleanup_(mem_freep) char *path = mem_printf("%s%s", to, n->path + len);
        if (n->inode) {
            copy_file(b, n->inode, path);
        } else {
            names_put(&b->seen, path, NULL);
            names_put(&b->durable, path, NULL);
        }
    }
}

/* ---- file.h ---- */

static struct file *file_of(struct disk *d, struct inode *inode)
{
    struct file *f = mem_new(struct file);

    *f = (struct file){d, inode_ref(inode)};
    return f;
}

int file_open(struct file **ret, const char *path, int flags)
{
    struct disk *d = disk_of(path);
    check(d);
    struct name *name = names_find(&d->seen, path);

    if (!name && !(flags & FILE_CREATE))
        return -ENOENT;
    if (name && (flags & FILE_CREATE) && (flags & FILE_EXCLUSIVE))
        return -EEXIST;
    if (name && !name->inode)
        return -EISDIR;
    if (name) {
        *ret = file_of(d, name->inode);
        return 0;
    }
    int r = boundary(d);
    if (r < 0)
        return r;
    struct inode *inode = inode_new();
    changes_add(&d->pending, &d->seen, NULL, path, inode);
    *ret = file_of(d, inode);
    return 0;
}

struct file *file_close(struct file *f)
{
    if (f)
        inode_unref(f->inode);
    free(f);
    return NULL;
}

int file_size(struct file *f, uint64_t *ret)
{
    *ret = f->inode->size;
    return 0;
}

int file_read(struct file *f, uint64_t offset, void *data, size_t len, size_t *ret_len)
{
    const struct inode *n = f->inode;
    uint64_t left = offset < n->size ? n->size - offset : 0;

    if (len > left)
        len = left;
    if (len)
        memcpy(data, n->cache + offset, len);
    *ret_len = len;
    return 0;
}

static void put_bytes(struct disk *d, struct inode *n, uint64_t offset, const void *data,
                      size_t len)
{
    if (len == 0)
        return;
    inode_reserve(n, offset + len);
    memcpy(n->cache + offset, data, len);
    mark_dirty(n, offset, offset + len);
    if (n->size < offset + len)
        n->size = offset + len;
    if (offset < n->written_from)
        n->written_from = offset;
    write_back_some(d, n);
}

/* A write that meets the end of the process, or an error, is cut short. */
int file_write(struct file *f, uint64_t offset, const void *data, size_t len)
{
    struct disk *d = f->d;
    struct inode *n = f->inode;

    if (dies_here(d)) {
        put_bytes(d, n, offset, data, rng_below(&d->rng, len + 1));
        die(d);
    }
    int r = error_here(d, d->faults.write_error_ppm);
    if (r < 0) {
        put_bytes(d, n, offset, data, rng_below(&d->rng, len + 1));
        return r;
    }
    put_bytes(d, n, offset, data, len);
    if (kernel_process() && d->faults.call_ns_max && rng_below(&d->rng, 8) == 0)
        fiber_sleep(rng_below(&d->rng, d->faults.call_ns_max));
    return 0;
}

int file_sync(struct file *f)
{
    struct disk *d = f->d;
    struct inode *n = f->inode;

    if (dies_here(d))
        die(d);
    sync_takes_time(d);
    int r = error_here(d, d->faults.sync_error_ppm);
    for (uint64_t s = n->dirty_from; s < n->dirty_to; s++) {
        if (n->dirty[s] && r == 0)
            sector_write_back(n, s);
        n->dirty[s] = 0; /* (I2) */
    }
    n->dirty_from = n->dirty_to = 0;
    if (r < 0)
        return r;
    n->disk_size = n->size;
    if (n->written_from != UINT64_MAX)
        n->settled = n->written_from;
    n->written_from = UINT64_MAX;
    return 0;
}

int file_truncate(struct file *f, uint64_t size)
{
    struct inode *n = f->inode;
    int r = boundary(f->d);

    if (r < 0)
        return r;
    inode_reserve(n, size);
    if (size < n->size)
        memset(n->cache + size, 0, n->size - size);
    n->size = size;
    return 0;
}

int file_rename(const char *from, const char *to)
{
    struct disk *d = disk_of(from);
    int r = boundary(d);

    if (r < 0)
        return r;
    struct name *name = names_find(&d->seen, from);
    if (!name)
        return -ENOENT;
    if (name->inode)
        name->inode->settled = 0; /* a segment of the log in its next life */
    changes_add(&d->pending, &d->seen, from, to, name->inode);
    return 0;
}

int file_remove(const char *path)
{
    struct disk *d = disk_of(path);
    int r = boundary(d);

    if (r < 0)
        return r;
    struct name *name = names_find(&d->seen, path);
    if (!name)
        return -ENOENT;
    if (!name->inode)
        return -EISDIR;
    changes_add(&d->pending, &d->seen, path, NULL, name->inode);
    return 0;
}

int file_exists(const char *path, bool *ret)
{
    *ret = disk_has(disk_of(path), path);
    return 0;
}

int dir_make(const char *path)
{
    struct disk *d = disk_of(path);
    _cleanup_(mem_freep) char *part = mem_strdup(path);

    for (size_t i = 1;; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        part[i] = '\0';
        if (!names_find(&d->seen, part)) {
            names_put(&d->seen, part, NULL);
            names_put(&d->durable, part, NULL);
        }
        if (path[i] == '\0')
            return 0;
        part[i] = '/';
    }
}

int dir_sync(const char *path)
{
    struct disk *d = disk_of(path);

    if (dies_here(d))
        die(d);
    sync_takes_time(d);
    int r = error_here(d, d->faults.sync_error_ppm);
    if (r == 0)
        changes_commit(&d->pending, &d->durable, path);
    return r;
}

int dir_list(const char *path, int (*visit)(void *arg, const char *name), void *arg)
{
    struct disk *d = disk_of(path);

    if (!names_find(&d->seen, path))
        return -ENOENT;
    size_t len = strlen(path);
    for (size_t i = 0; i < d->seen.len; i++) {
        const char *p = d->seen.items[i].path;
        if (strncmp(p, path, len) != 0 || p[len] != '/' || strchr(p + len + 1, '/'))
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
