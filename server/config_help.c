/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What --help, --version and a wrong flag print. Groups and layout are etcd's, because people
 * compare the two side by side.
 *
 * Thread: the composition root.
 */
#include "server/config_private.h"

static const char *const group_titles[GROUP_COUNT] = {
    [GROUP_MEMBER] = "Member",
    [GROUP_CLUSTERING] = "Clustering",
    [GROUP_SECURITY] = "Security",
    [GROUP_AUTH] = "Auth",
    [GROUP_PROFILING] = "Profiling and Monitoring",
    [GROUP_LOGGING] = "Logging",
    [GROUP_TRACING] = "Distributed tracing",
    [GROUP_FEATURES] = "Features",
    [GROUP_CAIRN] = "Cairn's own",
    [GROUP_UNSAFE] = "Unsafe feature",
};

void config_usage_print(FILE *out)
{
    fputs("Usage:\n"
          "\n"
          "  cairn [flags]\n"
          "    Start a server.\n"
          "\n"
          "  cairn --version\n"
          "    Show the version.\n"
          "\n"
          "  cairn -h | --help\n"
          "    Show the flags.\n"
          "\n"
          "  cairn --config-file\n"
          "    File with the server's configuration. With it, all other flags and the environment "
          "are ignored.\n"
          "    Durations in the file are integers, in nanoseconds (600000000000 for 10m); only "
          "flags take texts like \"10m\".\n"
          "    (--heartbeat-interval and --election-timeout are milliseconds in both.)\n"
          "\n",
          out);
}

static const char *effect_text(const struct flag *flag)
{
    switch (flag->effect) {
    case EFFECT_NOT_YET: return " (No effect yet.)";
    case EFFECT_NONE: return " (No effect in Cairn.)";
    case EFFECT_REFUSED: return " (Not supported yet: refused.)";
    case EFFECT_WORKS: break;
    }
    return "";
}

static void flag_print(struct buf *b, const struct flag *flag)
{
    if (!flag->help_default)
        buf_printf(b, "  --%s '%s'\n", flag->name, flag->default_text);
    else
        buf_printf(b, "  --%s%s%s\n", flag->name, flag->help_default[0] ? " " : "",
                   flag->help_default);
    buf_printf(b, "    %s%s\n", flag->help, effect_text(flag));
    if (flag->type == FLAG_FEATURE_GATES)
        config_gates_describe(b, "    ");
}

void config_help_print(FILE *out)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    for (int group = 0; group < GROUP_COUNT; group++) {
        buf_printf(&b, "\n%s:\n", group_titles[group]);
        for (size_t i = 0; i < config_flags_len; i++) {
            if ((int)config_flags[i].group == group)
                flag_print(&b, &config_flags[i]);
        }
    }
    buf_append_str(
        &b, "\nTake care with the unsafe ones: they may break what consensus guarantees.\n\n");
    fputs(buf_cstr(&b), out);
}
