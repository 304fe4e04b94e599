/* bucket_int.h: what the decisions of bucket.h share: bucket.c (the attempt, the lease core's questions, what comes next) and
 * bucket_pair.c (the two machines come together). */
#ifndef DMT_LEASE_BUCKET_INT_H
#define DMT_LEASE_BUCKET_INT_H

#include "fs/lease/bucket.h"

/* bucket.c */
struct bucket_action *bucket_add(struct bucket_actions *out, enum bucket_act type);
void bucket_write_record(struct bucket_state *s, struct bucket_actions *out); /* as it is now */
void bucket_say(struct bucket_actions *out, enum bucket_word word, uint64_t epoch, uint64_t nonce); /* to the peer */
/* Asks the bucket: type: PUT or GET, the key as by printf; its outcome is for op. */
void bucket_request(struct bucket_state *s, struct bucket_actions *out, enum bucket_op op, enum bucket_act type, const char *fmt,
                    ...) __attribute__((format(printf, 5, 6)));
/* The lease core has its answer: its question is over. */
void bucket_answer(struct bucket_state *s, struct bucket_actions *out, enum lease_answer how, uint32_t retry_ms,
                   const char *text);
void bucket_wake(struct bucket_state *s, uint64_t at); /* bucket_step is to be called then at the latest */
bool bucket_holds(const struct bucket_state *s);
const struct lease_id *bucket_peer(const struct bucket_state *s); /* the other one of the pair, or NULL */

/* bucket_pair.c. asks: makes the next request; done: its outcome. pair: our test; word: our part of the peer's. */
void bucket_pair_asks(struct bucket_state *s, struct bucket_actions *out);
void bucket_pair_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out);
void bucket_word_asks(struct bucket_state *s, struct bucket_actions *out);
void bucket_word_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out);
void bucket_on_msg(struct bucket_state *s, const struct lease_msg *m, struct bucket_actions *out);
void bucket_repeat_open(struct bucket_state *s, struct bucket_actions *out);

#endif
