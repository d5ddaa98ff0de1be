/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Versions (see version.h): reading and comparing them. No state; a number has four digits at most.
 *
 * Thread: any.
 */
#include "server/version.h"

#include <ctype.h>
#include <stdio.h>

enum { NUMBER_MAX = 9999 }; /* so that three of them fit into VERSION_TEXT_MAX */

static bool number_parse(const char **text, uint32_t *ret)
{
    const char *p = *text;

    for (*ret = 0; isdigit((unsigned char)*p); p++) {
        *ret = *ret * 10 + (uint32_t)(*p - '0');
        if (*ret > NUMBER_MAX)
            return false;
    }
    if (p == *text)
        return false;
    *text = p;
    return true;
}

static bool point(const char **text)
{
    return *(*text)++ == '.';
}

bool version_parse(const char *text, struct version *ret)
{
    struct version v;

    if (!number_parse(&text, &v.major) || !point(&text) || !number_parse(&text, &v.minor) ||
        !point(&text) || !number_parse(&text, &v.patch) || (*text && *text != '-' && *text != '+'))
        return false;
    *ret = v;
    return true;
}

static int compare(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

int version_compare(struct version a, struct version b)
{
    int r = compare(a.major, b.major);

    if (r == 0)
        r = compare(a.minor, b.minor);
    return r != 0 ? r : compare(a.patch, b.patch);
}

struct version version_minor(struct version v)
{
    return (struct version){.major = v.major, .minor = v.minor};
}

void version_text(struct version v, char ret[VERSION_TEXT_MAX])
{
    snprintf(ret, VERSION_TEXT_MAX, "%u.%u.%u", v.major % (NUMBER_MAX + 1),
             v.minor % (NUMBER_MAX + 1), v.patch % (NUMBER_MAX + 1));
}
