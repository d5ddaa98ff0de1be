/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names on a simulated disk (see disk_names.h). Thread: the only one.
 */
#include "tests/sim/disk_names.h"

#include <stdlib.h>

#include "base/map.h"
#include "base/mem.h"

static uint64_t hash_of(const char *path)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (; *path; path++)
        h = (h ^ (uint8_t)*path) * UINT64_C(0x100000001b3);
    return h;
}

struct name *names_find(const struct names *n, const char *path)
{
    uint64_t hash = hash_of(path);

    for (size_t i = 0; i < n->len; i++)
        if (n->items[i].hash == hash && strcmp(n->items[i].path, path) == 0)
            return &n->items[i];
    return NULL;
}

static void name_clear(struct name *name)
{
    free(name->path);
    inode_unref(name->inode);
}

static void names_remove(struct names *n, struct name *name)
{
    name_clear(name);
    *name = n->items[--n->len];
}

void names_put(struct names *n, const char *path, struct inode *inode)
{
    struct name *old = names_find(n, path);

    inode_ref(inode);
    if (old) {
        inode_unref(old->inode);
        old->inode = inode;
        return;
    }
    if (n->len == n->cap) {
        n->cap = n->cap ? 2 * n->cap : 16;
        n->items = mem_realloc(n->items, n->cap * sizeof(*n->items));
    }
    n->items[n->len++] = (struct name){mem_strdup(path), hash_of(path), inode};
}

void names_clear(struct names *n)
{
    while (n->len)
        name_clear(&n->items[--n->len]);
}

void names_deinit(struct names *n)
{
    names_clear(n);
    free(n->items);
    *n = (struct names){0};
}

void names_copy(struct names *to, const struct names *from)
{
    names_clear(to);
    for (size_t i = 0; i < from->len; i++)
        names_put(to, from->items[i].path, from->items[i].inode);
}

/* ---- changes ---- */

static bool is_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);

    return strncmp(path, dir, len) == 0 && path[len] == '/';
}

void names_drop(struct names *n, const char *dir)
{
    for (size_t i = 0; i < n->len;) {
        if (strcmp(n->items[i].path, dir) == 0 || is_below(n->items[i].path, dir))
            names_remove(n, &n->items[i]);
        else
            i++;
    }
}

static void rename_directory(struct names *n, const char *from, const char *to)
{
    size_t len = strlen(from);

    for (size_t i = 0; i < n->len; i++) {
        struct name *name = &n->items[i];
        if (strcmp(name->path, from) != 0 && !is_below(name->path, from))
            continue;
        char *path = mem_printf("%s%s", to, name->path + len);
        free(name->path);
        name->path = path;
        name->hash = hash_of(path);
    }
}

static void change_apply(struct names *n, const struct change *c)
{
    if (c->from && c->to && !c->inode) {
        rename_directory(n, c->from, c->to);
        return;
    }
    if (c->from) {
        struct name *old = names_find(n, c->from);
        if (!old || old->inode != c->inode)
            return; /* an earlier change of this name was lost */
        names_remove(n, old);
    }
    if (c->to)
        names_put(n, c->to, c->inode);
}

static void change_free(struct change *c)
{
    free(c->from);
    free(c->to);
    inode_unref(c->inode);
}

void changes_add(struct changes *c, struct names *seen, const char *from, const char *to,
                 struct inode *inode)
{
    struct change change = {mem_strdup(from), mem_strdup(to), inode_ref(inode)};

    change_apply(seen, &change);
    if (c->len == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 16;
        c->items = mem_realloc(c->items, c->cap * sizeof(*c->items));
    }
    c->items[c->len++] = change;
}

static bool is_in(const struct change *c, const char *dir)
{
    const char *path = c->to ? c->to : c->from, *slash = strrchr(path, '/');
    size_t len = strlen(dir);

    return (size_t)(slash - path) == len && strncmp(path, dir, len) == 0;
}

void changes_commit(struct changes *c, struct names *durable, const char *dir)
{
    size_t kept = 0;

    for (size_t i = 0; i < c->len; i++) {
        if (is_in(&c->items[i], dir)) {
            change_apply(durable, &c->items[i]);
            change_free(&c->items[i]);
        } else {
            c->items[kept++] = c->items[i];
        }
    }
    c->len = kept;
}

void changes_power_cycle(struct changes *c, struct names *durable, struct rng *rng)
{
    bool in_order = rng_below(rng, 2) == 0;
    size_t n = rng_below(rng, c->len + 1);

    for (size_t i = 0; i < c->len; i++)
        if (in_order ? i < n : rng_below(rng, 2) == 0)
            change_apply(durable, &c->items[i]);
    changes_clear(c);
}

void changes_clear(struct changes *c)
{
    while (c->len)
        change_free(&c->items[--c->len]);
}

void changes_deinit(struct changes *c)
{
    changes_clear(c);
    free(c->items);
    *c = (struct changes){0};
}
