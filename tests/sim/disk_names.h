/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names on a simulated disk, and changes of names that no directory sync has made durable.
 * Thread: the only one.
 */
#pragma once

#include "base/rng.h"
#include "storage/file.h"

struct inode;

struct inode *inode_ref(struct inode *f);
void inode_unref(struct inode *f); /* accepts NULL */

struct name {
    char *path;
    uint64_t hash;
    struct inode *inode; /* NULL: a directory */
};

struct names {
    struct name *items;
    size_t len, cap;
};

struct name *names_find(const struct names *n, const char *path);
void names_put(struct names *n, const char *path, struct inode *inode); /* takes a reference */
void names_drop(struct names *n, const char *dir); /* with all that is below it */
void names_clear(struct names *n);
void names_deinit(struct names *n);
void names_copy(struct names *to, const struct names *from);

struct change {
    char *from;          /* NULL: created */
    char *to;            /* NULL: removed */
    struct inode *inode; /* NULL: a directory, renamed with all that is in it */
};

struct changes {
    struct change *items;
    size_t len, cap;
};

/* Visible at once in seen; durable later. */
void changes_add(struct changes *c, struct names *seen, const char *from, const char *to,
                 struct inode *inode);
/* The changes in that directory become durable. */
void changes_commit(struct changes *c, struct names *durable, const char *dir);
/* Each change is kept or lost; none is pending any more. */
void changes_power_cycle(struct changes *c, struct names *durable, struct rng *rng);
void changes_clear(struct changes *c);
void changes_deinit(struct changes *c);
