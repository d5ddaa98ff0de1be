/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cairn: parse, open, start, wait for a signal, stop in reverse.
 *
 * Thread: main. All signals that end the process are blocked everywhere and taken here.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "api/peer.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/map.h"
#include "base/rng.h"
#include "server/config.h"
#include "server/server.h"

enum { GRACE_MS = 10000, STOP_MAX_S = 15, READY_POLL_MS = 5, END_POLL_MS = 100 };

/* jemalloc reads it: freed memory goes back to the system while the server is idle, too. */
extern const char *malloc_conf;
const char *malloc_conf = "background_thread:true";

static sigset_t end_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
}

static int setup_logging(const struct config *config)
{
    struct log_options options = {.outputs = (const char *const *)config->log_outputs.items,
                                  .n_outputs = config->log_outputs.len};
    bool console = strcmp(config->log_format, "console") == 0;
    char *error = NULL;

    options.format = console ? LOG_FORMAT_CONSOLE : LOG_FORMAT_JSON;
    if (log_level_parse(config->log_level, &options.level) == 0 && log_setup(&options, &error) == 0)
        return 0;
    log_error("failed to verify flags",
              LOG_STR("error", error ? error : "unrecognized --log-level"));
    free(error);
    return 1;
}

/* Clients, the log and the database want many descriptors; what the system allows is taken. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* The signal that came, or 0. */
static int pending_signal(void)
{
    sigset_t set = end_signals();
    struct timespec now = {0};
    int signal = sigtimedwait(&set, NULL, &now);

    return signal > 0 ? signal : 0;
}

/* The signal that came, or 0: this member is none any more. */
static int wait_end(struct server *server)
{
    struct timespec poll = {.tv_nsec = END_POLL_MS * 1000000L};
    sigset_t set = end_signals();
    int signal = 0;

    while (signal <= 0 && !server_is_removed(server))
        signal = sigtimedwait(&set, NULL, &poll);
    return signal > 0 ? signal : 0;
}

/* Ends as etcd does: by the signal itself, so that a supervisor sees what happened; also when a
 * parent had it ignored, as a shell has SIGINT for what a script starts in the background. */
static int end_by(int signal)
{
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigset_t set = end_signals();

    if (getpid() == 1 || signal == 0)
        return 0;
    sigaction(signal, &by_default, NULL);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(signal);
    return 128 + signal;
}

static volatile sig_atomic_t stop_signal;

/* A stop must end before a supervisor loses patience, whatever a library does. The data is then as
 * after a crash: nothing acknowledged is missing. Only calls that a signal handler may make. */
static void stop_overdue(int alarm_signal)
{
    static const char text[] = "{\"level\":\"fatal\",\"msg\":\"the stop did not end in time\"}\n";

    (void)alarm_signal;
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
        _exit(1);
    _exit(end_by(stop_signal));
}

static void limit_stop(int signal_number)
{
    stop_signal = signal_number;
    signal(SIGALRM, stop_overdue);
    alarm(STOP_MAX_S);
}

static void log_end(int signal)
{
    if (signal) {
        log_info("received signal; shutting down",
                 LOG_STR("signal", signal == SIGTERM ? "terminated" : "interrupt"));
        return;
    }
    log_warn("server error",
             LOG_STR("error", "the member has been permanently removed from the cluster"));
    log_warn("data-dir used by this member must be removed");
}

/* Until a signal ends it (returned), or 0: this member was removed; -1: the clients' side can't
 * start. */
static int serve(struct server *server, struct api **ret_api)
{
    struct api *api = NULL;
    int signal = 0;

    while (!server_wait_ready(server, READY_POLL_MS) && !(signal = pending_signal()) &&
           !server_is_removed(server))
        ;
    if (!signal && !server_is_removed(server)) {
        if (api_start(&api, server) != 0) {
            server_drain(server);
            return -1;
        }
        log_info("ready to serve client requests");
        (void)sd_notify(0, "READY=1");
        signal = wait_end(server);
    }
    limit_stop(signal);
    log_end(signal);
    (void)sd_notify(0, "STOPPING=1");
    server_release_waiting(server);
    if (api)
        api_stop(api, GRACE_MS);
    server_drain(server);
    *ret_api = api;
    return signal;
}

/* The server with its neighbours; the exit code. */
static int run_member(const struct config *config, struct peer *peer)
{
    struct server *server;
    struct api *api = NULL;
    int signal = -1, r = server_start(&server, config, peer_transport(peer));

    if (r < 0)
        log_fatal("could not start the server", LOG_ERRNO("error", r));
    if (r != 0)
        return 1; /* refused: the reason is the last line of the log */
    if (peer_start(peer, server) == 0)
        signal = serve(server, &api);
    else
        server_drain(server);
    peer_stop(peer);
    server_stop(server); /* its threads may still be in a finish() of the api's */
    api_free(api);
    return signal >= 0 ? end_by(signal) : 1;
}

static int run(const struct config *config)
{
    struct peer *peer;
    int exit_code, r;

    log_info("starting an etcd-compatible server", LOG_STR("cairn-version", CAIRN_VERSION),
             LOG_STR("etcd-version", SERVER_COMPATIBLE_VERSION), LOG_STR("name", config->name),
             LOG_STR("data-dir", config->data_dir));
    config_log_warnings(config);
    if (failpoint_start() < 0) {
        log_fatal("can't serve the failpoints");
        return 1;
    }
    r = peer_new(&peer, config);
    if (r < 0) {
        log_fatal("could not start the network between members", LOG_ERRNO("error", r));
        return 1;
    }
    exit_code = run_member(config, peer);
    peer_free(peer);
    failpoint_stop();
    return exit_code;
}

int main(int argc, char **argv)
{
    sigset_t set = end_signals();
    struct config config;
    int exit_code;

    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    hash_seed_set(rng_entropy());
    if (config_parse(argc, argv, environ, &config, &exit_code) == CONFIG_EXIT)
        return exit_code;
    exit_code = setup_logging(&config);
    if (exit_code == 0)
        exit_code = run(&config);
    config_deinit(&config);
    return exit_code;
}
