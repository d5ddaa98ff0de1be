/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the configuration share: the table of flags, the values under way, and Go's
 * ways to read and print a value. Outcome 1 of the parsing functions: the text is no such value,
 * *ret_error (malloc'd) says why as Go does.
 */
#pragma once

#include <stdio.h>

#include "base/check.h"
#include "server/config.h"

enum flag_type {
    FLAG_BOOL,
    FLAG_INT,  /* 64 bit, signed: Go's int and int64 */
    FLAG_UINT, /* 64 bit: Go's uint and uint64 */
    FLAG_UINT32,
    FLAG_DURATION,
    FLAG_STRING,
    FLAG_STRINGS,        /* comma separated, in the order given */
    FLAG_UNIQUE_STRINGS, /* sorted, each once */
    FLAG_URLS,           /* URLs, sorted, each once; "" keeps what was there */
    FLAG_ORIGINS,        /* FLAG_URLS or "*" */
    FLAG_CHOICE,         /* one of choices */
    FLAG_CHOICES,        /* some of choices */
    FLAG_FEATURE_GATES,
    FLAG_IGNORED, /* a boolean that etcd once had */
};

enum flag_group {
    GROUP_MEMBER,
    GROUP_CLUSTERING,
    GROUP_SECURITY,
    GROUP_AUTH,
    GROUP_PROFILING,
    GROUP_LOGGING,
    GROUP_TRACING,
    GROUP_FEATURES,
    GROUP_CAIRN, /* which etcd does not have */
    GROUP_UNSAFE,
    GROUP_COUNT,
    GROUP_HIDDEN = GROUP_COUNT, /* not in the help text */
};

enum flag_effect {
    EFFECT_WORKS,
    EFFECT_NOT_YET, /* accepted; a warning if another value than the default is given */
    EFFECT_NONE, /* accepted; there is nothing in Cairn that it could change; a warning as well */
    EFFECT_REFUSED, /* the server does not start with another value than the default */
};

/* The width of the field in struct config that a flag is bound to. */
enum flag_field {
    FIELD_NONE,
    FIELD_BOOL,
    FIELD_U32,
    FIELD_U64,
    FIELD_I64,
    FIELD_STRING,
    FIELD_STRINGS,
    FIELD_URLS
};

struct flag {
    const char *name;
    const char *default_text; /* in the form that config_text() gives */
    const char *help_default; /* as printed by --help; NULL: default_text in quotes; "": nothing */
    const char *help;
    const char *choices; /* comma separated */
    size_t offset;       /* of the field in struct config */
    enum flag_type type;
    enum flag_group group;
    enum flag_effect effect;
    enum flag_field field;
    bool no_file; /* the configuration file has no such field */
};

extern const struct flag config_flags[];
extern const size_t config_flags_len;

enum { CONFIG_FLAGS_MAX = 160, CONFIG_NOTES_MAX = 64, CONFIG_FILE_BYTES_MAX = 1 << 20 };

/* A warning to be logged once the log is set up. */
struct config_note {
    const char *text;
    char *name;
    char *value;
};

struct config_extra {
    char *texts[CONFIG_FLAGS_MAX]; /* by index in config_flags; never NULL */
    bool is_set[CONFIG_FLAGS_MAX];
    struct config_note notes[CONFIG_NOTES_MAX]; /* later ones are dropped */
    size_t n_notes;
    char **args; /* argv, for the log */
    size_t n_args;
    char *file; /* path of the configuration file, "" if none */
    bool data_dir_derived;
    char *default_host; /* put into the advertised URLs; NULL: none was */
};

/* NULL: no such flag. */
const struct flag *config_flag_find(const char *name);
size_t config_flag_index(const struct flag *flag);
const char *config_extra_text(const struct config_extra *x, const char *name);
/* As Set() of Go's flag package: checks text and stores it in its normal form. */
int config_flag_set(struct config_extra *x, const struct flag *flag, const char *text,
                    char **ret_error);
/*
 * The flag that an --experimental-NAME of etcd 3.6 and before stands for, or NULL. A feature that
 * became a gate gives *ret_gate its name; text "true" or "false" then belongs to that gate.
 */
const struct flag *config_experimental_find(const char *name, const char **ret_gate);
/* config_flag_set() by a name as the user wrote it: also old names, with a note about them. Outcome
 * 2: no such flag. */
int config_name_set(struct config_extra *x, const char *name, const char *text, char **ret_error);
void config_note(struct config_extra *x, const char *text, const char *name, const char *value);

/*
 * The three sources. Outcome 1: *ret_error says what is wrong. Outcome 2: the process ends with
 * *ret_exit_code and all is printed.
 */
int config_args_parse(struct config_extra *x, int argc, char **argv, char **ret_error,
                      int *ret_exit_code);
int config_env_apply(struct config_extra *x, char **environ_, char **ret_error, int *ret_exit_code);
int config_file_apply(struct config_extra *x, const char *path, char **ret_error);
void config_usage_print(FILE *out);
void config_help_print(FILE *out);

/* Checks of single values, also used before a field is bound. True: the gate is on. */
bool config_gate_enabled(const struct config_extra *x, const char *gate);
int config_gates_merge(const char *before, const char *text, char **ret_merged, char **ret_error);
/* One line a gate, as in the help text. */
void config_gates_describe(struct buf *out, const char *indent);

/* Sets *ret_error and returns 1; the second puts word between the texts as Go's %q prints it. */
int config_invalid(char **ret_error, const char *format, ...) __attribute__((format(printf, 2, 3)));
int config_invalid_quoted(char **ret_error, const char *before, const char *word,
                          const char *after);
/* --initial-cluster: its URLs, and that it names one member at most. */
int config_check_cluster(const struct config *config, char **ret_error);

/* Go's values. */
bool go_bool_parse(const char *s, bool *ret);
/* Base prefixes and underscores as strconv with base 0. Outcome 1: syntax; 2: range (*ret is the
 * nearest value). */
int go_int_parse(const char *s, int64_t *ret);
int go_uint_parse(const char *s, uint64_t max, uint64_t *ret);
int go_duration_parse(const char *s, int64_t *ret, char **ret_error);
void go_quote(struct buf *b, const char *s); /* %q */

/* url.Parse and types.NewURLs for one URL. */
int url_parse(const char *text, struct url *ret, char **ret_error);
void url_deinit(struct url *url);
int string_list_split(const char *text, bool unique, struct string_list *ret);
void string_list_join(const struct string_list *list, struct buf *out);
