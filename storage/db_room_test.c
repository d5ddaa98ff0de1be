/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store whose disk is full for a while. This program's write() and statvfs() come before libc's,
 * also for RocksDB: writes to files with a part in their name are refused, as often as the test
 * wants. RocksDB only; some tests wait for its looks at the disk.
 */
#include "storage/db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "storage/test_dir.h"

enum { RECORDS = 1000, ALWAYS = 1 << 20, FD_PATH_BYTES = 64, CLOCK_STEP_NS = 500 * 1000 * 1000 };
enum { FLUSHES = 40, FLUSHES_BRAKED = 17, SOON_MS = 20 * 1000, WHILE_MS = 100 };

/* ---- the disk ---- */

static struct {
    pthread_mutex_t lock; /* guards what follows */
    const char *part;     /* of the names of files that can't be written; NULL: plenty of room */
    int refusals;         /* so many writes more are refused, then there is room */
    int looks;            /* so many looks more find nothing free, then there is room */
    int refused;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void disk_fill(const char *part, int refusals, int looks)
{
    pthread_mutex_lock(&disk.lock);
    disk.part = part;
    disk.refusals = refusals;
    disk.looks = looks;
    disk.refused = 0;
    pthread_mutex_unlock(&disk.lock);
}

static void disk_has_room(void)
{
    disk_fill(NULL, 0, 0);
}

static int disk_refused(void)
{
    int n;

    pthread_mutex_lock(&disk.lock);
    n = disk.refused;
    pthread_mutex_unlock(&disk.lock);
    return n;
}

static bool named(int fd, const char *part)
{
    char link[FD_PATH_BYTES], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    if (n < 0)
        return false;
    path[n] = 0;
    return strstr(path, "cairn-test-") && strstr(path, part);
}

static bool refuses(int fd)
{
    bool yes = false;

    pthread_mutex_lock(&disk.lock);
    if (disk.part && named(fd, disk.part)) {
        yes = true;
        disk.refused++;
        if (--disk.refusals == 0)
            disk.part = NULL;
    }
    pthread_mutex_unlock(&disk.lock);
    return yes;
}

static void *of_libc(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);

    check(f);
    return f;
}

ssize_t write(int fd, const void *data, size_t len)
{
    if (refuses(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return ((ssize_t(*)(int, const void *, size_t))of_libc("write"))(fd, data, len);
}

/* By the name that RocksDB calls it; large files give it another one here. */
int statvfs_of_disk(const char *path, struct statvfs *ret) __asm__("statvfs");
int statvfs_of_disk(const char *path, struct statvfs *ret)
{
    int r = ((int (*)(const char *, struct statvfs *))of_libc("statvfs"))(path, ret);

    pthread_mutex_lock(&disk.lock);
    if (disk.part && disk.looks-- == 0)
        disk.part = NULL;
    if (disk.part)
        ret->f_bfree = ret->f_bavail = 0;
    pthread_mutex_unlock(&disk.lock);
    return r;
}

/* ---- the clock, which a test may hurry ---- */

static _Atomic bool hurried;
static _Atomic uint64_t hurried_ns;

uint64_t __real_clock_mono_ns(void);
uint64_t __wrap_clock_mono_ns(void);
uint64_t __wrap_clock_mono_ns(void)
{
    return hurried ? (hurried_ns += CLOCK_STEP_NS) : __real_clock_mono_ns();
}

/* ---- the store ---- */

struct fixture {
    char *dir;
    struct db *db;
    _Atomic int asked;
    bool gives;
};

static void no_room(void *arg)
{
    struct fixture *f = arg;

    f->asked++;
    if (f->gives)
        disk_has_room();
}

static void open_store(struct fixture *f)
{
    struct db_options options = {
        .path = f->dir, .prefix_len = schema_prefix_len, .no_room = no_room, .no_room_arg = f};
    char *error = NULL;

    assert_int_equal(db_open(&f->db, &options, &error), 0);
}

static int put(struct fixture *f, unsigned i)
{
    char key[16];
    struct db_batch *b = db_batch_new();
    int r;

    snprintf(key, sizeof(key), "hkey%05u", i);
    db_batch_put(b, bytes_str(key), bytes_str(key));
    r = db_write(f->db, b);
    db_batch_free(b);
    return r;
}

static void put_all(struct fixture *f)
{
    for (unsigned i = 0; i < RECORDS; i++)
        assert_int_equal(put(f, i), 0);
}

static void must_have_all(struct fixture *f)
{
    for (unsigned i = 0; i < RECORDS; i++) {
        char key[16];
        struct db_value v = {0};
        snprintf(key, sizeof(key), "hkey%05u", i);
        assert_int_equal(db_get(f->db, NULL, bytes_str(key), &v), 0);
        assert_int_equal(bytes_compare(v.bytes, bytes_str(key)), 0);
        db_value_release(&v);
    }
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->dir = test_dir_new();
    open_store(f);
    put_all(f);
    assert_int_equal(db_flush(f->db), 0);
    put_all(f);
    *state = f;
    return 0;
}

/* What was written is there, and durable. */
static int teardown(void **state)
{
    struct fixture *f = *state;

    hurried = false;
    disk_has_room();
    must_have_all(f);
    db_close(f->db);
    open_store(f);
    must_have_all(f);
    db_close(f->db);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

/* ---- tests ---- */

static void test_flush(void **state)
{
    struct fixture *f = *state;

    disk_fill(".sst", 1, ALWAYS);
    assert_int_equal(db_flush(f->db), 0);
    assert_int_equal(f->asked, 1);
    assert_int_equal(disk_refused(), 1);
}

static void test_manifest(void **state)
{
    struct fixture *f = *state;

    disk_fill("/MANIFEST-", 1, ALWAYS);
    assert_int_equal(db_flush(f->db), 0);
    assert_int_equal(f->asked, 1);
    assert_int_equal(put(f, 1), 0);
    assert_int_equal(db_compact(f->db, NULL, NULL), 0);
}

/* Room is given up for it. */
static void test_write(void **state)
{
    struct fixture *f = *state;

    f->gives = true;
    disk_fill("/MANIFEST-", ALWAYS, ALWAYS);
    assert_int_equal(db_compact(f->db, NULL, NULL), -ENOSPC);
    assert_int_equal(f->asked, 0);
    assert_int_equal(put(f, 1), 0);
    assert_int_equal(f->asked, 1);
    assert_int_equal(db_flush(f->db), 0);
    assert_int_equal(f->asked, 1);
}

/* What a compaction lacks, nobody waits for. */
static void test_compaction(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(db_flush(f->db), 0);
    disk_fill(".sst", ALWAYS, ALWAYS);
    assert_int_equal(db_compact(f->db, NULL, NULL), -ENOSPC);
    assert_int_equal(put(f, 1), 0);
    assert_int_equal(f->asked, 0);
    disk_has_room();
    assert_int_equal(db_flush(f->db), 0);
}

/* ---- the brake ---- */

/* Tables can be written, but after one compaction that could not, none is begun any more. */
static void no_room_to_compact(struct fixture *f)
{
    assert_int_equal(db_flush(f->db), 0);
    disk_fill(".sst", ALWAYS, ALWAYS);
    assert_int_equal(db_compact(f->db, NULL, NULL), -ENOSPC);
    disk_fill("nothing", ALWAYS, ALWAYS);
}

struct flusher {
    struct fixture *f;
    pthread_t thread;
    _Atomic unsigned done;
    _Atomic int r;
};

static bool soon(bool (*is)(void *arg), void *arg)
{
    uint64_t until_ms = clock_mono_ms() + SOON_MS;

    while (!is(arg) && clock_mono_ms() < until_ms)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
    return is(arg);
}

static bool was_refused(void *arg)
{
    return disk_refused() > 0;
}

/* A compaction says that the disk is full also when another one, which was refused before, ends
 * meanwhile. */
static bool compacts(void *arg)
{
    struct fixture *f = arg;

    return db_compact(f->db, NULL, NULL) == 0;
}

static void *flush_often(void *arg)
{
    struct flusher *w = arg;

    for (unsigned i = 0; i < FLUSHES && w->r == 0; i++) {
        int r = put(w->f, i);
        w->r = r < 0 ? r : db_flush(w->f->db);
        w->done++;
    }
    return NULL;
}

static bool is_braked(void *arg)
{
    struct flusher *w = arg;

    return w->done >= FLUSHES_BRAKED;
}

static bool all_done(void *arg)
{
    struct flusher *w = arg;

    return w->done == FLUSHES;
}

static void flushes_end(struct flusher *w)
{
    bool done = soon(all_done, w);

    if (!done)
        disk_has_room(); /* else the thread might never end */
    pthread_join(w->thread, NULL);
    assert_true(done);
    assert_int_equal(w->r, 0);
}

/* All are done soon. */
static void flushes_go_on(struct fixture *f)
{
    struct flusher w = {.f = f};

    assert_int_equal(pthread_create(&w.thread, NULL, flush_often, &w), 0);
    flushes_end(&w);
}

/* One waits until the brake is let go, and notices that. */
static void flushes_wait(struct fixture *f)
{
    struct flusher w = {.f = f};

    assert_int_equal(pthread_create(&w.thread, NULL, flush_often, &w), 0);
    (void)soon(is_braked, &w);
    (void)nanosleep(&(struct timespec){.tv_nsec = WHILE_MS * 1000 * 1000}, NULL);
    unsigned done = w.done;
    assert_int_equal(db_set_brake(f->db, false), 0);
    flushes_end(&w);
    assert_in_range(done, FLUSHES_BRAKED, FLUSHES_BRAKED + 2); /* there were up to two tables */
}

/* Each leaves a table, and no compaction has room for them. */
static void test_many_flushes(void **state)
{
    struct fixture *f = *state;

    no_room_to_compact(f);
    assert_int_equal(db_set_brake(f->db, false), 0);
    flushes_go_on(f);
}

static void test_flush_that_waits(void **state)
{
    struct fixture *f = *state;

    no_room_to_compact(f);
    flushes_wait(f);
}

/* Nothing at all can be written when the brake is taken off, but soon after. */
static void test_brake_without_room(void **state)
{
    struct fixture *f = *state;

    no_room_to_compact(f);
    disk_fill("/", ALWAYS, ALWAYS);
    assert_int_equal(db_set_brake(f->db, false), 0);
    disk_fill("nothing", ALWAYS, ALWAYS);
    assert_int_equal(db_set_brake(f->db, false), 0);
    flushes_go_on(f);
    assert_int_equal(put(f, 1), 0);
}

static void set_brake_unnoted(struct fixture *f, bool on)
{
    disk_fill("/MANIFEST-", ALWAYS, ALWAYS);
    assert_int_equal(db_set_brake(f->db, on), 0);
    assert_in_range(disk_refused(), 1, ALWAYS);
    disk_has_room();
}

/* What RocksDB could not note down it does all the same. */
static void test_brake_unnoted(void **state)
{
    struct fixture *f = *state;

    set_brake_unnoted(f, false);
    assert_int_equal(db_set_brake(f->db, true), 0);
    no_room_to_compact(f);
    flushes_wait(f);
    disk_has_room();
    assert_true(soon(compacts, f));
    set_brake_unnoted(f, true);
    assert_int_equal(db_set_brake(f->db, false), 0);
    no_room_to_compact(f);
    flushes_go_on(f);
}

/* Without room for the brake, a later lack of room of a compaction alone would stop all writes; it
 * does not once the brake was asked for again. */
static void test_brake_again(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(db_flush(f->db), 0);
    set_brake_unnoted(f, false);
    assert_int_equal(db_set_brake(f->db, false), 0);
    disk_fill(".sst", ALWAYS, ALWAYS);
    assert_int_equal(db_compact(f->db, NULL, NULL), -ENOSPC);
    assert_int_equal(put(f, 1), 0);
    assert_int_equal(f->asked, 0);
}

/* With so many tables that the next flush would wait, the brake does not come on. */
static void test_brake_with_tables(void **state)
{
    struct fixture *f = *state;

    no_room_to_compact(f);
    for (unsigned i = 0; i < FLUSHES_BRAKED; i++) {
        assert_int_equal(put(f, i), 0);
        assert_int_equal(db_flush(f->db), 0);
    }
    assert_int_equal(db_set_brake(f->db, false), 0);
    assert_int_equal(db_set_brake(f->db, true), 0);
    flushes_go_on(f);
}

/* A store that has many tables when it is opened has no brake until they are few. */
static void test_brake_of_opened(void **state)
{
    struct fixture *f = *state;

    no_room_to_compact(f);
    assert_int_equal(db_set_brake(f->db, false), 0);
    flushes_go_on(f);
    db_close(f->db);
    disk_fill(".sst", ALWAYS, ALWAYS);
    open_store(f);
    assert_true(soon(was_refused, NULL));
    disk_fill("nothing", ALWAYS, ALWAYS);
    assert_int_equal(db_set_brake(f->db, true), 0);
    flushes_go_on(f);
    disk_has_room();
    assert_true(soon(compacts, f));
    assert_int_equal(db_set_brake(f->db, true), 0);
    no_room_to_compact(f);
    flushes_wait(f);
}

/* The disk stays full: everything says so in the end, and can still be read. Nothing is written to
 * RocksDB's own log meanwhile, whose failure would end the process. */
static void test_for_good(void **state)
{
    struct fixture *f = *state;

    hurried_ns = __real_clock_mono_ns();
    hurried = true;
    disk_fill("/", ALWAYS, ALWAYS);
    assert_int_equal(db_flush(f->db), -ENOSPC);
    assert_int_equal(put(f, 1), -ENOSPC);
    assert_int_equal(db_flush(f->db), -ENOSPC);
    must_have_all(f);
    hurried = false;
    disk_fill("/", ALWAYS, 0); /* RocksDB looks again, within five seconds */
    assert_int_equal(put(f, 1), 0);
    assert_int_equal(db_flush(f->db), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_flush, setup, teardown),
        cmocka_unit_test_setup_teardown(test_manifest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_flushes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_that_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brake_without_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brake_unnoted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brake_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brake_with_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brake_of_opened, setup, teardown),
        cmocka_unit_test_setup_teardown(test_for_good, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
