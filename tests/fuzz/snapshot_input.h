/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the targets of snapshots: a bbolt file from an input, in memory. By the first byte the rest
 * is the file; or the file but for the sums of its meta pages, which are made right; or items {
 * bucket 1, key length varint, key, value length varint, value }, which are written into one, so
 * that what is changed is not always found by the reader already. Thread: one.
 */
#pragma once

#include "base/bytes.h"

struct memory_file {
    int fd;
    char path[32]; /* "": not open yet */
};

void memory_file_open(struct memory_file *f); /* once; it lives as long as the process */
void snapshot_input_write(struct memory_file *f, struct bytes input); /* not empty */
