/* arbiter_json.c: the arbiter's messages as JSON. Pure functions; a value that does not fit its
 * type or limits is refused, never cut.
 */
#include "fs/lease/arbiter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"

json_t *lease_u64_json(uint64_t v)
{
    char hex[17];
    (void)snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)v);
    return json_string(hex);
}

bool lease_u64_parse(const json_t *v, uint64_t *ret)
{
    const char *s = json_string_value(v);
    if (!s || strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16)
        return false;
    *ret = strtoull(s, NULL, 16);
    return true;
}

json_t *lease_id_json(const struct lease_id *id)
{
    char hex[33];
    dmt_hex(id->store, 16, hex);
    return json_pack("{s:s s:s}", "node", id->node, "store", hex);
}

bool lease_id_parse(const json_t *v, struct lease_id *ret)
{
    const char *node = json_string_value(json_object_get(v, "node"));
    const char *store = json_string_value(json_object_get(v, "store"));
    memset(ret, 0, sizeof(*ret));
    if (!node || !store || !node[0] || strlen(node) > DMT_NODE_NAME_MAX ||
        dmt_unhex(store, ret->store, 16) < 0)
        return false;
    memcpy(ret->node, node, strlen(node) + 1);
    return true;
}

json_t *lease_register_json(const struct lease_register *r)
{
    if (r->epoch == 0)
        return json_null();
    json_t *in = json_array();
    for (int i = 0; i < r->insync_n; i++)
        json_array_append_new(in, lease_id_json(&r->insync[i]));
    return json_pack("{s:I s:o s:o}", "epoch", (json_int_t)r->epoch, "holder",
                     lease_id_json(&r->holder), "insync", in);
}

bool lease_register_parse(const json_t *v, struct lease_register *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (json_is_null(v))
        return true;
    const json_t *epoch = json_object_get(v, "epoch"), *in = json_object_get(v, "insync");
    json_int_t e = json_integer_value(epoch);
    size_t n = json_array_size(in);
    if (!json_is_integer(epoch) || e < 1 || e > UINT32_MAX || !json_is_array(in) ||
        n > LEASE_INSYNC_MAX || !lease_id_parse(json_object_get(v, "holder"), &ret->holder))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!lease_id_parse(json_array_get(in, i), &ret->insync[i]))
            return false;
    ret->insync_n = (int)n;
    ret->epoch = (uint32_t)e;
    return true;
}

json_t *lease_ask_json(const struct lease_ask *a)
{
    json_t *v = json_pack("{s:s s:I s:I s:I s:o s:I s:b}", "op", lease_op_name(a->op), "id",
                          (json_int_t)a->id, "base", (json_int_t)a->base, "first",
                          (json_int_t)a->first, "seen", lease_u64_json(a->seen), "lease_ms",
                          (json_int_t)a->lease_ms, "word", a->word);
    if (v && !lease_id_none(&a->peer))
        json_object_set_new(v, "peer", lease_id_json(&a->peer));
    return v;
}

bool lease_ask_parse(const json_t *v, struct lease_ask *ret)
{
    const char *op = json_string_value(json_object_get(v, "op"));
    json_int_t id = json_integer_value(json_object_get(v, "id"));
    json_int_t base = json_integer_value(json_object_get(v, "base"));
    const json_t *first = json_object_get(v, "first"); /* older processes do not say it */
    json_int_t f = first ? json_integer_value(first) : 1;
    json_int_t lease_ms = json_integer_value(json_object_get(v, "lease_ms"));
    const json_t *peer = json_object_get(v, "peer");
    memset(ret, 0, sizeof(*ret));
    for (int i = LEASE_READ; op && i <= LEASE_RETAKE; i++)
        if (strcmp(op, lease_op_name((enum lease_op)i)) == 0)
            ret->op = (enum lease_op)i;
    if (ret->op == 0 || id < 0 || base < 0 || base > UINT32_MAX || f < 0 || f > UINT32_MAX ||
        lease_ms < 0 || lease_ms > 3600000 ||
        !lease_u64_parse(json_object_get(v, "seen"), &ret->seen))
        return false;
    if (peer && !lease_id_parse(peer, &ret->peer))
        return false;
    ret->id = (uint64_t)id;
    ret->base = (uint32_t)base;
    ret->first = (uint32_t)f;
    ret->lease_ms = (uint32_t)lease_ms;
    ret->word = json_is_true(json_object_get(v, "word"));
    return true;
}
