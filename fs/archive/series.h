/* series.h: finding one's way in an archive by GET alone (rule 16): the list of nodes node/<k>, one dense series of objects
 * log/<lineage>/<node>/<n> per node. LIST is used as additional evidence only. */
#ifndef DMT_ARCHIVE_SERIES_H
#define DMT_ARCHIVE_SERIES_H

#include <stdbool.h>
#include "fs/archive/object.h"
#include "fs/archive/objstore.h"

/* Where bytes come from: the archiver's remote, or a plain handle. */
struct series_src {
    int (*get)(void *ctx, const char *key, uint64_t off, uint64_t len, struct dmt_buf *out, struct dmt_err *err);
    void *ctx;
};
struct series_src series_src_of(struct dmt_objstore *os);

#define SERIES_KEY_MAX 160
void series_key(char key[SERIES_KEY_MAX], const uint8_t lineage[16], const char *node, uint64_t n);
void series_node_key(char key[SERIES_KEY_MAX], uint64_t k);
/* A node name that can stand in a key: [A-Za-z0-9._-]{1,64}, not "." or "..". */
bool series_name_ok(const char *node);

/* Header of object n. 0, -ENOENT, DMT_E_CORRUPT (err names the key; a header of another place counts as damaged, A2), others. */
int series_hdr(const struct series_src *s, const uint8_t lineage[16], const char *node, uint64_t n, struct archive_hdr *ret,
               struct dmt_err *err);
/* The whole object; payload is appended to out. */
int series_object(const struct series_src *s, const uint8_t lineage[16], const char *node, uint64_t n, struct archive_hdr *ret,
                  struct dmt_buf *out, struct dmt_err *err);
/* First absent number at or after `from`, given that all below `from` exist: gallops, then bisects, then looks a few numbers
 * further for a hole. *ret_hole: an object beyond the end was seen, so that number `*ret_end` is missing. */
int series_end(const struct series_src *s, const uint8_t lineage[16], const char *node, uint64_t from, uint64_t *ret_end,
               bool *ret_hole, struct dmt_err *err);

/* A claim: the payload of node/<k>. */
struct series_claim {
    uint64_t k;
    uint8_t lineage[16];
    uint8_t from[16]; /* the lineage that it was forced out of; zeros: none */
    char node[DMT_NODE_NAME_MAX + 1];
};
/* 0, -ENOENT, DMT_E_CORRUPT, others. */
int series_claim_get(const struct series_src *s, uint64_t k, struct series_claim *ret, struct dmt_err *err);
/* The object that claims k for a node. */
int series_claim_encode(const struct series_claim *c, struct dmt_buf *out);

#endif
