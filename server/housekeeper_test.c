/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The housekeeper when the disk fills: which flushes it does, puts off, or gives the ballast for,
 * how far the log may go then, and that the member raises its alarm. The disk is the test's own,
 * and so are the flush, the brake and what the log is told (the linker wraps db_flush(),
 * db_set_brake() and node_release()).
 *
 * Also with its thread: nobody's time-out waits for a flush.
 */
#include "server/housekeeper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"
#include "server/test_box.h"
#include "storage/disk_space.h"
#include "storage/file.h"

#define MIB (UINT64_C(1) << 20)
#define NOSPACE ETCDSERVERPB__ALARM_TYPE__NOSPACE

enum { DISK_MIB = 8192, BALLAST_MIB = 32, MARK_MIB = 256, PATIENCE_MS = 30000 };

int __real_db_flush(struct db *db);
int __wrap_db_flush(struct db *db);
int __wrap_db_set_brake(struct db *db, bool on);
void __wrap_node_release(struct node *node, uint64_t index);

static _Atomic uint64_t free_bytes;
static struct box *ballast_frees; /* NULL: nobody's, this disk is no emptier without it */
static unsigned flushes;
static uint64_t released; /* by the last flush */
static bool braked;       /* the database, as it was told last */
static bool braked_flush; /* one was begun so */

/* A flush that waits: in here until the gate opens. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool shut;
    bool inside;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};

static bool has_ballast(const struct box *b)
{
    char *path = mem_printf("%s/" DISK_BALLAST_NAME, b->s->data_dir->path);
    bool exists = false;

    assert_int_equal(file_exists(path, &exists), 0);
    free(path);
    return exists;
}

int disk_space(const char *path, struct disk_space *ret)
{
    uint64_t freed = ballast_frees && !has_ballast(ballast_frees) ? BALLAST_MIB * MIB : 0;

    *ret = (struct disk_space){DISK_MIB * MIB, atomic_load(&free_bytes) + freed};
    return 0;
}

int __wrap_db_flush(struct db *db)
{
    flushes++;
    braked_flush |= braked;
    pthread_mutex_lock(&gate.lock);
    gate.inside = true;
    pthread_cond_broadcast(&gate.cond);
    while (gate.shut)
        pthread_cond_wait(&gate.cond, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    return __real_db_flush(db);
}

int __wrap_db_set_brake(struct db *db, bool on)
{
    braked = on;
    return 0;
}

void __wrap_node_release(struct node *node, uint64_t index)
{
    released = index;
}

static int setup(void **state)
{
    atomic_store(&free_bytes, 4096 * MIB);
    braked = braked_flush = false;
    ballast_frees = NULL;
    *state = box_start();
    flushes = 0;
    released = 0;
    return 0;
}

static int teardown(void **state)
{
    *state = box_free(*state);
    return 0;
}

static uint64_t applied(struct box *b)
{
    return atomic_load(&b->s->state.applied);
}

/* What a turn some ticks later does: a look at the disk, and what follows from it. */
static void turns(struct box *b)
{
    for (int i = 0; i < 3; i++)
        housekeeper_turn(b->s->housekeeper, b->now_ms += HOUSEKEEPER_TICK_MS);
}

static void write_bytes(struct box *b, uint64_t bytes)
{
    static char value[1 << 20];
    uint64_t until = db_unflushed_bytes(b->s->store.db) + bytes;

    memset(value, 'v', sizeof(value) - 1);
    for (int i = 0; db_unflushed_bytes(b->s->store.db) < until; i++) {
        char *key = mem_printf("key-%d", i);
        assert_int_equal(box_put(b, key, value), OUTCOME_OK);
        free(key);
        arena_reset(&b->arena);
    }
}

/* Once, while it still fits well; and the log may go up to there, though peers may want it. */
static void test_flushes_when_short(void **state)
{
    struct box *b = *state;

    b->now_ms += 10 * HOUSEKEEPER_TICK_MS;
    turns(b);
    assert_true(has_ballast(b));
    assert_int_equal(flushes, 0);
    assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    atomic_store(&free_bytes, MARK_MIB * MIB - 1);
    turns(b);
    assert_int_equal(flushes, 1);
    assert_int_equal(released, applied(b));
    turns(b);
    assert_int_equal(flushes, 1);
    assert_true(has_ballast(b));
}

/* No flush waits for a compaction while that may have no room; also not one of a Defragment, which
 * holds the room. The brake itself needs some. */
static void test_brake(void **state)
{
    struct box *b = *state;

    turns(b);
    assert_true(braked);
    atomic_store(&free_bytes, DB_BRAKE_BYTES - 1);
    turns(b);
    assert_true(braked);
    disk_room_hold(b->s->room);
    atomic_store(&free_bytes, DB_BRAKE_BYTES);
    turns(b);
    assert_false(braked);
    disk_room_let_go(b->s->room);
    turns(b);
    assert_false(braked);
    atomic_store(&free_bytes, 4096 * MIB);
    turns(b);
    assert_true(braked);
}

/* Without any room at first, it goes off with that of the ballast. */
static void test_brake_by_ballast(void **state)
{
    struct box *b = *state;

    turns(b);
    assert_true(braked);
    write_bytes(b, DB_WRITE_BUFFER_BYTES / 2);
    ballast_frees = b;
    atomic_store(&free_bytes, 0);
    turns(b);
    assert_false(has_ballast(b));
    assert_true(flushes > 0);
    assert_false(braked_flush);
}

/* What can wait does not take the ballast, and is done when there is room. */
static void test_puts_off(void **state)
{
    struct box *b = *state;

    turns(b);
    atomic_store(&free_bytes, 0);
    turns(b);
    housekeeper_note_written(b->s->housekeeper, FLUSH_ENTRIES_MAX, 0);
    turns(b);
    assert_int_equal(flushes, 0);
    assert_true(has_ballast(b));
    atomic_store(&free_bytes, MARK_MIB / 2 * MIB);
    turns(b);
    assert_int_equal(flushes, 1);
    turns(b);
    assert_int_equal(flushes, 1);
}

/* What can't wait does: a database near to flushing by itself, or a log without a next segment. */
static void test_ballast_for_full_memory(void **state)
{
    struct box *b = *state;

    turns(b);
    write_bytes(b, DB_WRITE_BUFFER_BYTES / 2);
    atomic_store(&free_bytes, DB_WRITE_BUFFER_BYTES / 4);
    turns(b);
    assert_false(has_ballast(b)); /* this disk is no emptier for it, so the flush still waits */
    assert_int_equal(flushes, 0);
    atomic_store(&free_bytes, DB_WRITE_BUFFER_BYTES);
    turns(b);
    assert_true(flushes > 0);
}

static void test_ballast_for_log(void **state)
{
    struct box *b = *state;

    turns(b);
    atomic_store(&free_bytes, 0);
    turns(b);
    housekeeper_make_room(b->s->housekeeper);
    turns(b);
    assert_false(has_ballast(b));
    assert_int_equal(flushes, 0);
    atomic_store(&free_bytes, 4 * MIB);
    turns(b);
    assert_int_equal(flushes, 1);
    assert_int_equal(released, applied(b));
    turns(b);
    assert_int_equal(flushes, 1);
}

/* Nor does a compaction fill the memory that can't be flushed. */
static void test_compaction_waits(void **state)
{
    struct box *b = *state;
    struct call c;

    turns(b);
    write_bytes(b, DB_WRITE_BUFFER_BYTES / 2);
    atomic_store(&free_bytes, 0);
    turns(b);
    call_compact(b, &c, mvcc_revision(b->s->store.mvcc), true);
    server_submit(b->s, &c.request);
    box_run(b);
    turns(b);
    assert_int_equal(c.outcome, CALL_WAITS);
    atomic_store(&free_bytes, 4096 * MIB);
    for (int i = 0; i < 8; i++)
        turns(b);
    assert_int_equal(c.outcome, OUTCOME_OK);
    call_deinit(&c);
}

/* With plenty of room the log keeps what peers that lag may ask for. */
static void test_keeps_for_peers(void **state)
{
    struct box *b = *state;

    turns(b);
    housekeeper_note_written(b->s->housekeeper, FLUSH_ENTRIES_MAX, 0);
    turns(b);
    assert_int_equal(flushes, 1);
    assert_int_equal(released, 0);
    housekeeper_make_room(b->s->housekeeper);
    turns(b);
    assert_int_equal(flushes, 2);
    assert_int_equal(released, applied(b));
}

/* ---- --snapshot-count ---- */

enum { COUNT = 100, CATCHUP = 10 };

static int setup_count(void **state)
{
    struct box *b = box_new(test_dir_new());

    atomic_store(&free_bytes, 4096 * MIB);
    box_config(b, "--snapshot-count=100", "--snapshot-catchup-entries=10");
    box_open(b);
    box_run(b);
    flushes = 0;
    released = 0;
    *state = b;
    return 0;
}

static void apply_up_to(struct box *b, uint64_t index)
{
    while (applied(b) < index)
        assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    assert_int_equal(applied(b), index);
}

/* As etcd: when more than that is applied behind what is durable; and again as much later. */
static void test_counts(void **state)
{
    struct box *b = *state;
    uint64_t durable = 0;

    for (unsigned i = 1; i <= 3; i++) {
        apply_up_to(b, durable + COUNT);
        turns(b);
        assert_int_equal(flushes, i - 1);
        apply_up_to(b, durable + COUNT + 1);
        turns(b);
        assert_int_equal(flushes, i);
        durable = applied(b);
        assert_int_equal(released, durable - CATCHUP);
    }
}

/* However often the thread is woken: once a tick. */
static void test_counts_by_tick(void **state)
{
    struct box *b = *state;

    turns(b);
    uint64_t tick_ms = b->now_ms;
    for (unsigned i = 0; i < 3 * COUNT; i++) {
        assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
        housekeeper_turn(b->s->housekeeper, tick_ms);
    }
    assert_int_equal(flushes, 0);
    turns(b);
    assert_int_equal(flushes, 1);
}

/* Not on a full disk, but as soon as there is room. */
static void test_count_is_put_off(void **state)
{
    struct box *b = *state;

    turns(b);
    atomic_store(&free_bytes, 0);
    apply_up_to(b, COUNT + 1);
    turns(b);
    assert_int_equal(flushes, 0);
    atomic_store(&free_bytes, 4096 * MIB);
    turns(b);
    assert_int_equal(flushes, 1);
}

/* A start counts from what was durable: what is replayed is not. */
static void test_counts_from_start(void **state)
{
    struct box *b = *state;

    apply_up_to(b, COUNT + 1);
    turns(b);
    uint64_t durable = applied(b);
    apply_up_to(b, durable + COUNT / 2);
    box_close(b);
    box_open(b);
    box_run(b);
    flushes = 0;
    apply_up_to(b, durable + COUNT);
    turns(b);
    assert_int_equal(flushes, 0);
    apply_up_to(b, durable + COUNT + 1);
    turns(b);
    assert_int_equal(flushes, 1);
}

/* The default is no count: a flush costs too much for so few entries. */
static void test_default_counts_nothing(void **state)
{
    struct box *b = *state;

    apply_up_to(b, 10050);
    turns(b);
    assert_int_equal(flushes, 0);
}

/* ---- with its threads ---- */

/* A request that waits for nothing but its time. */
struct waiter {
    struct request request;
    _Atomic bool finished;
    enum outcome outcome;
};

static void finish(struct request *request, enum outcome outcome)
{
    struct waiter *w = container_of(request, struct waiter, request);

    buf_deinit(&request->response);
    w->outcome = outcome;
    atomic_store(&w->finished, true);
}

/* False: it took too long. */
static bool finished(struct waiter *w)
{
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    while (!atomic_load(&w->finished) && clock_mono_ms() < end_ms)
        sched_yield();
    return atomic_load(&w->finished);
}

static int submit(struct box *b, struct call *c)
{
    struct waiter w = {.request = c->request};

    w.request.finish = finish;
    server_submit(b->s, &w.request);
    check(finished(&w));
    return (int)w.outcome;
}

static int put(struct box *b)
{
    struct call c;

    call_put(b, &c, "k", "v", 0);
    return submit(b, &c);
}

static void start_threads(struct box *b)
{
    check(server_start_threads(b->s) == 0);
    while (!server_wait_ready(b->s, PATIENCE_MS))
        check(false);
}

static void gate_set(bool shut)
{
    pthread_mutex_lock(&gate.lock);
    gate.shut = shut;
    gate.inside = false;
    pthread_cond_broadcast(&gate.cond);
    pthread_mutex_unlock(&gate.lock);
}

static void gate_wait(void)
{
    pthread_mutex_lock(&gate.lock);
    while (!gate.inside)
        pthread_cond_wait(&gate.cond, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

/* Time-outs and the member's own proposals go on while a flush takes its time. */
static void test_timeouts_during_flush(void **state)
{
    struct box *b = *state;
    struct waiter w = {.request = {.kind = REQUEST_READ_INDEX, .id = 77, .finish = finish}};

    start_threads(b);
    gate_set(true);
    housekeeper_make_room(b->s->housekeeper);
    gate_wait();
    w.request.expires_ms = clock_mono_ms();
    assert_true(wait_add(&b->s->wait, &w.request));
    bool in_time = finished(&w);
    gate_set(false);
    assert_true(in_time);
    assert_int_equal(w.outcome, OUTCOME_TIMEOUT);
}

static bool no_space(struct box *b, bool wanted)
{
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    while (alarms_no_space(b->s->store.alarms) != wanted && clock_mono_ms() < end_ms)
        sched_yield();
    return alarms_no_space(b->s->store.alarms) == wanted;
}

/* The alarm comes by itself, comes again when it is taken away too early, and not when there is
 * room. */
static void test_alarm(void **state)
{
    struct box *b = *state;
    struct call c;

    start_threads(b);
    assert_int_equal(put(b), OUTCOME_OK);
    atomic_store(&free_bytes, 0);
    assert_true(no_space(b, true));
    assert_int_equal(put(b), OUTCOME_NO_SPACE);
    assert_true(server_quota_exceeded(b->s, 1)); /* not even proposed */
    assert_false(server_quota_exceeded(b->s, 0));
    call_delete(b, &c, "k", NULL);
    assert_int_equal(submit(b, &c), OUTCOME_OK);
    call_alarm(b, &c, false, NOSPACE);
    assert_int_equal(submit(b, &c), OUTCOME_OK);
    assert_true(no_space(b, true));

    atomic_store(&free_bytes, 4096 * MIB);
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    while (disk_room_short(b->s->room) && clock_mono_ms() < end_ms)
        sched_yield();
    assert_true(alarms_no_space(b->s->store.alarms)); /* only an operator takes it away */
    do {
        call_alarm(b, &c, false, NOSPACE);
        assert_int_equal(submit(b, &c), OUTCOME_OK);
    } while (put(b) != OUTCOME_OK && clock_mono_ms() < end_ms);
    assert_int_equal(put(b), OUTCOME_OK);
    assert_false(server_quota_exceeded(b->s, 1));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define C(f) cmocka_unit_test_setup_teardown(f, setup_count, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_flushes_when_short),
        T(test_brake),
        T(test_brake_by_ballast),
        T(test_puts_off),
        T(test_ballast_for_full_memory),
        T(test_ballast_for_log),
        T(test_compaction_waits),
        T(test_keeps_for_peers),
        C(test_counts),
        C(test_counts_by_tick),
        C(test_count_is_put_off),
        C(test_counts_from_start),
        T(test_default_counts_nothing),
        T(test_timeouts_during_flush),
        T(test_alarm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
