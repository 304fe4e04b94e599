/* conf.c: ordered key/value lists and their two written forms, lines and mount options.
 *
 * Owns the list and its strings. Happy path: load a file or parse a list, look keys up (linear: a
 * conf has tens of keys), save. Values cannot hold newlines or start or end with blanks in the
 * lines form, because a line is trimmed; dmt_conf_save() refuses such a value instead of writing
 * something that reads back differently. Which keys exist is not known here: the owner of the keys
 * walks the list and names the unknown ones. Out of memory aborts: confs are read at start, by
 * programs that hold nothing yet. Thread: any; a conf belongs to one caller.
 */
#include "fs/base/conf.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/base/io.h"
#include "fs/base/log.h"

#define CONF_FILE_MAX (1u << 20)

struct entry {
    char *key, *value;
};
struct dmt_conf {
    struct entry *e;
    size_t n, cap;
};

static char *copy(const char *s, size_t n)
{
    char *p = strndup(s, n);
    DMT_ASSERT(p);
    return p;
}

struct dmt_conf *dmt_conf_new(void)
{
    struct dmt_conf *c = calloc(1, sizeof(*c));
    DMT_ASSERT(c);
    return c;
}

void dmt_conf_free(struct dmt_conf *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++) {
        free(c->e[i].key);
        free(c->e[i].value);
    }
    free(c->e);
    free(c);
}

static struct entry *find(const struct dmt_conf *c, const char *key)
{
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->e[i].key, key) == 0)
            return &c->e[i];
    return NULL;
}

void dmt_conf_set(struct dmt_conf *c, const char *key, const char *value)
{
    char *v = copy(value, strlen(value)); /* first: value may be this key's own old value */
    struct entry *e = find(c, key);
    if (e) {
        free(e->value);
        e->value = v;
        return;
    }
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 16;
        c->e = reallocarray(c->e, c->cap, sizeof(*c->e));
        DMT_ASSERT(c->e);
    }
    c->e[c->n++] = (struct entry){copy(key, strlen(key)), v};
}

void dmt_conf_unset(struct dmt_conf *c, const char *key)
{
    struct entry *e = find(c, key);
    if (!e)
        return;
    free(e->key);
    free(e->value);
    c->n--;
    memmove(e, e + 1, (size_t)(c->e + c->n - e) * sizeof(*e));
}

const char *dmt_conf_get(const struct dmt_conf *c, const char *key)
{
    const struct entry *e = find(c, key);
    return e ? e->value : NULL;
}

size_t dmt_conf_count(const struct dmt_conf *c)
{
    return c->n;
}

const char *dmt_conf_key(const struct dmt_conf *c, size_t i)
{
    DMT_ASSERT(i < c->n);
    return c->e[i].key;
}

const char *dmt_conf_value(const struct dmt_conf *c, size_t i)
{
    DMT_ASSERT(i < c->n);
    return c->e[i].value;
}

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1]))
        s[--n] = '\0';
    return s;
}

static bool key_ok(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("_.-", *s))
            return false;
    return true;
}

static int load_line(struct dmt_conf *c, char *line, const char *path, int number,
                     struct dmt_err *err)
{
    line = trim(line);
    if (!*line || *line == '#')
        return 0;
    char *eq = strchr(line, '=');
    if (!eq) {
        dmt_err_set(err, DMT_E_CONFIG, "%s:%d: '%s' is not key=value", path, number, line);
        dmt_err_hint(err, "write one key=value a line; a comment starts with #");
        return DMT_E_CONFIG;
    }
    *eq = '\0';
    char *key = trim(line), *value = trim(eq + 1);
    if (!key_ok(key))
        return dmt_err_set(err, DMT_E_CONFIG, "%s:%d: '%s' is not a name of a key", path, number,
                           key);
    dmt_conf_set(c, key, value);
    return 0;
}

int dmt_conf_load(struct dmt_conf *c, const char *path, struct dmt_err *err)
{
    char *text;
    size_t len;
    int r = dmt_io_read_file(dmt_io_real(), path, CONF_FILE_MAX, &text, &len);
    if (r < 0)
        return dmt_err_set(err, r, "cannot read %s: %s", path, dmt_strerror(r));
    if (memchr(text, 0, len)) {
        free(text);
        return dmt_err_set(err, DMT_E_CONFIG, "%s is not a text file", path);
    }
    int number = 0;
    for (char *at = text, *line; r == 0 && (line = strsep(&at, "\n"));)
        r = load_line(c, line, path, ++number, err);
    free(text);
    return r;
}

/* One word of the comma list, quotes removed, into out (as long as the rest of the list). Returns
 * where the next word starts, or NULL when a quote is not closed. *ret_eq: position of the first
 * '=' in out outside quotes, or -1. */
static const char *next_option(const char *s, char *out, long *ret_eq)
{
    bool quoted = false;
    char *o = out;
    *ret_eq = -1;
    for (; *s && (quoted || *s != ','); s++) {
        if (*s == '"') {
            quoted = !quoted;
            continue;
        }
        if (*s == '\\' && quoted && (s[1] == '"' || s[1] == '\\'))
            s++;
        else if (*s == '=' && !quoted && *ret_eq < 0)
            *ret_eq = o - out;
        *o++ = *s;
    }
    *o = '\0';
    return quoted ? NULL : *s ? s + 1 : s;
}

int dmt_conf_options(struct dmt_conf *c, const char *list, struct dmt_err *err)
{
    int r = 0;
    char *word = malloc(strlen(list) + 1);
    DMT_ASSERT(word);
    for (const char *s = list; *s;) {
        long eq;
        const char *next = next_option(s, word, &eq);
        if (!next) {
            r = dmt_err_set(err, DMT_E_CONFIG, "a quote is not closed in the options '%s'", s);
            break;
        }
        s = next;
        if (!*word)
            continue; /* ",," and a comma at the end do no harm */
        const char *value = "";
        if (eq >= 0) {
            word[eq] = '\0';
            value = word + eq + 1;
        }
        if (!key_ok(word)) {
            r = dmt_err_set(err, DMT_E_CONFIG, "'%s' is not a name of an option", word);
            break;
        }
        dmt_conf_set(c, word, value);
    }
    free(word);
    return r;
}

int dmt_conf_save(const struct dmt_conf *c, const char *path, struct dmt_err *err)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    int r = 0;
    for (size_t i = 0; i < c->n && r == 0; i++) {
        const char *k = c->e[i].key, *v = c->e[i].value;
        size_t n = strlen(v);
        if (!key_ok(k) || strpbrk(v, "\r\n") ||
            (n > 0 && (isspace((unsigned char)v[0]) || isspace((unsigned char)v[n - 1])))) {
            r = dmt_err_set(err, DMT_E_CONFIG, "%s='%s' cannot be written to %s", k, v, path);
            break;
        }
        dmt_put_raw(&b, k, strlen(k));
        dmt_put_u8(&b, '=');
        dmt_put_raw(&b, v, n);
        dmt_put_u8(&b, '\n');
    }
    if (r == 0 && b.bad)
        r = dmt_err_set(err, -ENOMEM, "out of memory");
    if (r == 0) {
        r = dmt_io_write_file(dmt_io_real(), path, b.p, b.len, 0644);
        if (r < 0)
            dmt_err_set(err, r, "cannot write %s: %s", path, dmt_strerror(r));
    }
    dmt_buf_free(&b);
    return r;
}

/* "12" or "1.5" as thousandths would lose bytes of 1.5 TiB, so: whole part and a fraction over a
 * power of ten (at most 9 digits). Returns the unit's start, or NULL. */
static const char *parse_number(const char *s, uint64_t *whole, uint64_t *frac, uint64_t *frac_of)
{
    *whole = *frac = 0;
    *frac_of = 1;
    if (!isdigit((unsigned char)*s))
        return NULL;
    for (; isdigit((unsigned char)*s); s++)
        if (__builtin_mul_overflow(*whole, 10u, whole) ||
            __builtin_add_overflow(*whole, (uint64_t)(*s - '0'), whole))
            return NULL;
    if (*s != '.')
        return s;
    s++;
    if (!isdigit((unsigned char)*s))
        return NULL;
    for (int digits = 0; isdigit((unsigned char)*s); s++, digits++) {
        if (digits == 9)
            return NULL;
        *frac = *frac * 10 + (uint64_t)(*s - '0');
        *frac_of *= 10;
    }
    return s;
}

static int scale(uint64_t whole, uint64_t frac, uint64_t frac_of, uint64_t unit, uint64_t *ret)
{
    uint64_t v, part = (uint64_t)((unsigned __int128)unit * frac / frac_of);
    if (__builtin_mul_overflow(whole, unit, &v) || __builtin_add_overflow(v, part, &v))
        return -EINVAL;
    *ret = v;
    return 0;
}

int dmt_parse_size(const char *s, uint64_t *ret_bytes)
{
    uint64_t whole, frac, frac_of;
    const char *unit = parse_number(s, &whole, &frac, &frac_of);
    if (!unit)
        return -EINVAL;
    static const char letters[] = "KMGTPE";
    unsigned shift = 0;
    if (*unit && *unit != 'B') {
        const char *at = strchr(letters, toupper((unsigned char)*unit));
        if (!at)
            return -EINVAL;
        shift = 10 * (unsigned)(at - letters + 1);
        unit++;
        if (*unit == 'i')
            unit++;
    }
    if (*unit == 'B')
        unit++;
    if (*unit || (shift == 0 && frac_of != 1))
        return -EINVAL;
    return scale(whole, frac, frac_of, 1ull << shift, ret_bytes);
}

int dmt_parse_duration_ms(const char *s, uint64_t *ret_ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"ms", 1},      {"s", 1000},    {"m", 60000},
                 {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
    uint64_t whole, frac, frac_of;
    const char *unit = parse_number(s, &whole, &frac, &frac_of);
    if (!unit)
        return -EINVAL;
    if (strcmp(s, "0") == 0) {
        *ret_ms = 0; /* the one number that means the same in every unit */
        return 0;
    }
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcmp(unit, units[i].name) == 0)
            return scale(whole, frac, frac_of, units[i].ms, ret_ms);
    return -EINVAL;
}
