/* SPDX-License-Identifier: Apache-2.0 */
/* What the server's metrics show: labels, and how operations of the store are counted. */
#include "server/server_metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/mem.h"

enum { MEMBER_ID = 0xabc };

static bool shows(const char *line)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    _cleanup_(mem_freep) char *whole = mem_printf("\n%s\n", line);

    metrics_render(&out);
    return strstr(buf_cstr(&out), whole) != NULL;
}

static void expect(const char *line)
{
    if (!shows(line))
        fail_msg("'%s' is not there", line);
}

static int register_all(void **state)
{
    char *args[] = {(char *)"cairn",
                    (char *)"--feature-gates=AllAlpha=true,LeaseCheckpoint=false,"
                            "LeaseCheckpointPersist=false,AllBeta=false",
                    NULL};
    char *no_environ[] = {NULL};
    struct config config;
    int exit_code;

    if (config_parse(2, args, no_environ, &config, &exit_code) != CONFIG_RUN)
        return -1;
    server_metrics_register(&config, MEMBER_ID);
    server_metrics_register(&config, MEMBER_ID + 1); /* the labels stay */
    config_deinit(&config);
    return 0;
}

static void test_labels(void **state)
{
    expect("etcd_server_id{server_id=\"abc\"} 1");
    expect("etcd_server_feature_enabled{name=\"AllAlpha\",stage=\"ALPHA\"} 1");
    expect("etcd_server_feature_enabled{name=\"InitialCorruptCheck\",stage=\"ALPHA\"} 1");
    expect("etcd_server_feature_enabled{name=\"LeaseCheckpoint\",stage=\"ALPHA\"} 0");
    expect("etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 0");
    expect("etcd_server_heartbeat_send_failures_total 0");
    expect("etcd_disk_backend_snapshot_duration_seconds_bucket{le=\"655.36\"} 0");
    expect("etcd_debugging_lease_ttl_total_bucket{le=\"8.388608e+06\"} 0");
}

static void test_cluster_version(void **state)
{
    char version[16];

    server_metrics_cluster_version("3.6.0");
    expect("etcd_cluster_version{cluster_version=\"3.6\"} 1");
    server_metrics_cluster_version("3.7.0");
    server_metrics_cluster_version("3.7.0");
    expect("etcd_cluster_version{cluster_version=\"3.6\"} 0");
    expect("etcd_cluster_version{cluster_version=\"3.7\"} 1");
    for (int i = 8; i < 30; i++) {
        snprintf(version, sizeof(version), "3.%d.0", i);
        server_metrics_cluster_version(version);
    }
    expect("etcd_cluster_version{cluster_version=\"3.7\"} 0");
    expect("etcd_cluster_version{cluster_version=\"3.13\"} 0");
    assert_false(shows("etcd_cluster_version{cluster_version=\"3.29\"} 1")); /* no room */
    server_metrics_cluster_version("3.7");
    expect("etcd_cluster_version{cluster_version=\"3.7\"} 1");
}

static void test_peers(void **state)
{
    uint64_t ids[KNOWN_PEERS_MAX + 2];

    for (size_t i = 0; i < KNOWN_PEERS_MAX + 2; i++)
        ids[i] = MEMBER_ID + i;
    server_metrics_peers(MEMBER_ID, ids, 2);
    expect("etcd_network_known_peers{Local=\"abc\",Remote=\"abc\"} 1");
    expect("etcd_network_known_peers{Local=\"abc\",Remote=\"abd\"} 1");
    ids[1] = 0xdef;
    server_metrics_peers(MEMBER_ID, ids, 2);
    expect("etcd_network_known_peers{Local=\"abc\",Remote=\"abc\"} 1");
    expect("etcd_network_known_peers{Local=\"abc\",Remote=\"abd\"} 0");
    expect("etcd_network_known_peers{Local=\"abc\",Remote=\"def\"} 1");
    server_metrics_peers(MEMBER_ID, ids, KNOWN_PEERS_MAX + 2); /* more than there is room for */
    expect("etcd_network_known_peers{Local=\"abc\",Remote=\"abe\"} 1");
    assert_false(shows("etcd_network_known_peers{Local=\"abc\",Remote=\"cbd\"} 1"));
}

static void test_store(void **state)
{
    server_metrics_count_mvcc(&(struct mvcc_counts){0});
    server_metrics_count_mvcc(&(struct mvcc_counts){.puts = 1, .put_bytes = 7});
    expect("etcd_mvcc_put_total 1");
    expect("etcd_mvcc_txn_total 0");
    server_metrics_count_mvcc(
        &(struct mvcc_counts){.ranges = 1, .puts = 2, .deletes = 3, .put_bytes = 10});
    expect("etcd_mvcc_range_total 1");
    expect("etcd_mvcc_put_total 3");
    expect("etcd_mvcc_delete_total 3");
    expect("etcd_mvcc_txn_total 1");
    expect("etcd_debugging_mvcc_total_put_size_in_bytes 17");
}

static void test_defrag(void **state)
{
    server_metrics_defrag(true);
    server_metrics_defrag(true);
    expect("etcd_disk_defrag_inflight 1");
    server_metrics_defrag(false);
    expect("etcd_disk_defrag_inflight 1");
    server_metrics_defrag(false);
    expect("etcd_disk_defrag_inflight 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_labels), cmocka_unit_test(test_cluster_version),
        cmocka_unit_test(test_peers), cmocka_unit_test(test_store), cmocka_unit_test(test_defrag)};

    return cmocka_run_group_tests(tests, register_all, NULL);
}
