/* fuzz_conf.c: configuration text, as lines of a file and as options of mount. modules: base
 *
 * Options that pass their check come back the same from the text that is made of them; whatever the
 * keys say, the checks end with 0 or DMT_E_CONFIG.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/base/conf.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_equal(const struct dmt_conf *a, const struct dmt_conf *b)
{
    DMT_ASSERT(dmt_conf_count(a) == dmt_conf_count(b));
    for (size_t i = 0; i < dmt_conf_count(a); i++) {
        DMT_ASSERT(strcmp(dmt_conf_key(a, i), dmt_conf_key(b, i)) == 0);
        DMT_ASSERT(strcmp(dmt_conf_value(a, i), dmt_conf_value(b, i)) == 0);
    }
}

/* Text made of c reads back as c. */
static void check_join(const struct dmt_conf *c)
{
    struct dmt_conf *again = dmt_conf_new();
    char *text = dmt_options_join(c);
    DMT_ASSERT(text && dmt_conf_options(again, text, NULL) == 0);
    must_equal(c, again);
    free(text);
    dmt_conf_free(again);
}

static void check(struct dmt_conf *c, unsigned where)
{
    struct dmt_err err = {0};
    for (int sloppy = 0; sloppy < 2; sloppy++) {
        int r = dmt_options_clean(c, where, sloppy, &err);
        DMT_ASSERT(r == 0 || (r == DMT_E_CONFIG && err.msg[0]));
        if (r < 0)
            continue;
        for (size_t i = 0; i < dmt_conf_count(c); i++)
            DMT_ASSERT(dmt_option_find(dmt_conf_key(c, i)));
        check_join(c);
        r = dmt_options_consistent(c, &err);
        DMT_ASSERT(r == 0 || r == DMT_E_CONFIG);
    }
}

static void words(const char *s)
{
    uint64_t v = 0;
    int r = dmt_parse_size(s, &v);
    DMT_ASSERT(r == 0 || r == -EINVAL);
    r = dmt_parse_duration_ms(s, &v);
    DMT_ASSERT(r == 0 || r == -EINVAL);
    r = dmt_workspace_name_check(s, NULL);
    DMT_ASSERT(r == 0 || r == DMT_E_CONFIG);
}

/* The first byte says which form the rest is. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    char *s = malloc(size);
    DMT_ASSERT(s);
    memcpy(s, data + 1, size - 1);
    s[size - 1] = '\0';
    struct dmt_conf *c = dmt_conf_new();
    struct dmt_err err = {0};
    if (data[0] % 4 == 0) {
        words(s);
    } else if (data[0] % 4 == 1) {
        char path[64];
        int fd = memfd_create("conf", 0);
        DMT_ASSERT(fd >= 0 && write(fd, s, size - 1) == (ssize_t)(size - 1));
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        int r = dmt_conf_load(c, path, &err);
        DMT_ASSERT(r == 0 || (r == DMT_E_CONFIG && err.msg[0]));
        close(fd);
        if (r == 0)
            check(c, DMT_OPT_IN_CONF);
    } else {
        int r = dmt_conf_options(c, s, &err);
        DMT_ASSERT(r == 0 || (r == DMT_E_CONFIG && err.msg[0]));
        if (r == 0)
            check(c, DMT_OPT_IN_MOUNT);
    }
    dmt_conf_free(c);
    free(s);
    return 0;
}
