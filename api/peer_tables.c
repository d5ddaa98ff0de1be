/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories on the wire (see peer_tables.h). The reader:
 *
 *     NAME_LENGTH(2) ──> NAME ──> SIZE(8) ──> BYTES ──> CRC(4) ──> NAME_LENGTH
 *          └── 0 ──> END
 *
 * I1. No name leads out of the directory, and no file is written twice: each is made anew.
 * I2. A file is synced when its checksum is right, the directory at the end.
 *
 * Thread: the caller's.
 */
#include "api/peer_tables.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/mem.h"

enum { HEAD_BYTES = 2 + 8, TAIL_BYTES = 4, END_BYTES = 2, WRITE_BEHIND_BYTES = 1 << 20 };
enum { STATE_NAME_LENGTH, STATE_NAME, STATE_SIZE, STATE_BYTES, STATE_CRC, STATE_END };

static bool name_ok(const char *name, size_t len)
{
    bool only_dots = true;

    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)name[i]) && !(name[i] && strchr("-_.", name[i])))
            return false;
        only_dots &= name[i] == '.';
    }
    return len > 0 && len <= PEER_TABLES_NAME_MAX && !only_dots;
}

/* ---- out ---- */

void peer_tables_deinit(struct peer_tables *t)
{
    for (size_t i = 0; i < t->len; i++)
        free(t->files[i].name);
    free(t->files);
    *t = (struct peer_tables){0};
}

/* One entry of the directory; "." and ".." are passed over. */
static int file_add(struct peer_tables *t, int dir_fd, const char *name)
{
    struct stat st;

    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return 0;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || !name_ok(name, strlen(name)) || t->len == PEER_TABLES_FILES_MAX)
        return -EINVAL;
    t->files = mem_realloc(t->files, (t->len + 1) * sizeof(struct peer_table_file));
    t->files[t->len++] =
        (struct peer_table_file){.name = mem_strdup(name), .bytes = (uint64_t)st.st_size};
    t->body_bytes += HEAD_BYTES + strlen(name) + (uint64_t)st.st_size + TAIL_BYTES;
    return 0;
}

int peer_tables_list(const char *directory, struct peer_tables *ret)
{
    struct peer_tables t = {.body_bytes = END_BYTES};
    DIR *dir = opendir(directory);
    struct dirent *entry;
    int r = dir ? 0 : -errno;

    while (r == 0 && (errno = 0, entry = readdir(dir)))
        r = file_add(&t, dirfd(dir), entry->d_name);
    if (r == 0)
        r = -errno;
    if (dir)
        closedir(dir);
    if (r < 0)
        peer_tables_deinit(&t);
    else
        *ret = t;
    return r;
}

void peer_tables_head(struct buf *out, const struct peer_table_file *file)
{
    size_t len = strlen(file->name);

    buf_append_u8(out, (uint8_t)(len >> 8));
    buf_append_u8(out, (uint8_t)len);
    buf_append(out, file->name, len);
    buf_append_u64_be(out, file->bytes);
}

/* ---- in ---- */

static void expect(struct peer_tables_reader *r, int state, size_t wanted)
{
    check(wanted < sizeof(r->piece));
    r->state = state;
    r->wanted = wanted;
    r->piece_len = 0;
}

int peer_tables_reader_init(struct peer_tables_reader *r, const char *directory)
{
    *r = (struct peer_tables_reader){.dir_fd = -1, .file_fd = -1};
    expect(r, STATE_NAME_LENGTH, 2);
    if (mkdir(directory, 0700) < 0)
        return -errno;
    r->dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return r->dir_fd < 0 ? -errno : 0;
}

void peer_tables_reader_deinit(struct peer_tables_reader *r)
{
    if (r->file_fd >= 0)
        close(r->file_fd);
    if (r->dir_fd >= 0)
        close(r->dir_fd);
    r->file_fd = r->dir_fd = -1;
}

static int name_take(struct peer_tables_reader *r)
{
    r->piece[r->piece_len] = '\0';
    const char *name = (const char *)r->piece;
    if (!name_ok(name, r->piece_len) || r->n_files == PEER_TABLES_FILES_MAX)
        return PEER_TABLES_WRONG;
    r->file_fd =
        openat(r->dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (r->file_fd < 0)
        return errno == EEXIST ? PEER_TABLES_WRONG : -errno;
    r->n_files++;
    r->crc = 0;
    r->written = 0;
    expect(r, STATE_SIZE, 8);
    return PEER_TABLES_MORE;
}

static int file_finish(struct peer_tables_reader *r)
{
    if (u32_be_get(r->piece) != r->crc)
        return PEER_TABLES_WRONG;
    int result = fsync(r->file_fd) < 0 ? -errno : PEER_TABLES_MORE;
    if (close(r->file_fd) < 0 && result > 0)
        result = -errno;
    r->file_fd = -1;
    expect(r, STATE_NAME_LENGTH, 2);
    return result;
}

static int name_length_take(struct peer_tables_reader *r)
{
    size_t len = (size_t)r->piece[0] << 8 | r->piece[1];

    if (len > PEER_TABLES_NAME_MAX)
        return PEER_TABLES_WRONG;
    if (len > 0) {
        expect(r, STATE_NAME, len);
        return PEER_TABLES_MORE;
    }
    r->state = STATE_END;
    return fsync(r->dir_fd) < 0 ? -errno : 0;
}

static void size_take(struct peer_tables_reader *r)
{
    r->bytes_left = u64_be_get(r->piece);
    if (r->bytes_left > 0)
        r->state = STATE_BYTES;
    else
        expect(r, STATE_CRC, 4);
}

static int piece_take(struct peer_tables_reader *r)
{
    switch (r->state) {
    case STATE_NAME_LENGTH: return name_length_take(r);
    case STATE_NAME: return name_take(r);
    case STATE_SIZE: size_take(r); return PEER_TABLES_MORE;
    case STATE_CRC: return file_finish(r);
    }
    return PEER_TABLES_WRONG;
}

static struct bytes take(struct bytes *in, uint64_t max)
{
    size_t n = in->len < max ? in->len : (size_t)max;
    struct bytes taken = bytes_of(in->data, n);

    *in = bytes_of(in->data + n, in->len - n);
    return taken;
}

/* A file system may not know how; but a write that failed is told here, and by no later sync. */
static int range_sync(int fd, uint64_t from, uint64_t len, unsigned flags)
{
    if (sync_file_range(fd, (off64_t)from, (off64_t)len, flags) == 0 || errno == ENOSYS ||
        errno == EINVAL || errno == ESPIPE || errno == EPERM)
        return 0;
    return -errno;
}

/* A piece is written to the disk at once, and the one before is waited for: a sync of the raft log
 * on the same disk has no more than two of them before it. */
static int write_behind(int fd, uint64_t piece)
{
    uint64_t at = piece * WRITE_BEHIND_BYTES;
    int r = range_sync(fd, at, 0, SYNC_FILE_RANGE_WRITE);

    if (r == 0 && piece > 0)
        r = range_sync(fd, at - WRITE_BEHIND_BYTES, WRITE_BEHIND_BYTES,
                       SYNC_FILE_RANGE_WAIT_BEFORE);
    return r;
}

int peer_file_append(int fd, struct bytes data, uint64_t *written)
{
    uint64_t before = *written / WRITE_BEHIND_BYTES;

    while (data.len > 0) {
        ssize_t n = TEMP_FAILURE_RETRY(write(fd, data.data, data.len));
        if (n < 0)
            return -errno;
        take(&data, (uint64_t)n);
        *written += (uint64_t)n;
    }
    return *written / WRITE_BEHIND_BYTES > before ? write_behind(fd, before) : 0;
}

static int bytes_write(struct peer_tables_reader *r, struct bytes *in)
{
    struct bytes part = take(in, r->bytes_left);

    r->crc = crc32c(r->crc, part.data, part.len);
    r->bytes_left -= part.len;
    int result = peer_file_append(r->file_fd, part, &r->written);
    if (r->bytes_left == 0)
        expect(r, STATE_CRC, 4);
    return result < 0 ? result : PEER_TABLES_MORE;
}

int peer_tables_read(struct peer_tables_reader *r, struct bytes *in)
{
    int result = PEER_TABLES_MORE;

    while (result == PEER_TABLES_MORE && in->len > 0) {
        if (r->state == STATE_BYTES) {
            result = bytes_write(r, in);
            continue;
        }
        struct bytes part = take(in, r->wanted - r->piece_len);
        memcpy(r->piece + r->piece_len, part.data, part.len);
        r->piece_len += part.len;
        if (r->piece_len == r->wanted)
            result = piece_take(r);
    }
    return result;
}

void peer_tables_remove(const char *path)
{
    DIR *dir;
    struct dirent *entry;

    if (unlink(path) == 0 || !(dir = opendir(path)))
        return;
    while ((entry = readdir(dir)))
        unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    rmdir(path);
}
