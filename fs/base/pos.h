/* pos.h: a place in a history, as journal, store and everything above name it. */
#ifndef DMT_BASE_POS_H
#define DMT_BASE_POS_H

#include <stdint.h>

/* The last record at that place. seq 0 = before the first record (epoch 0, chain 0). */
struct dmt_pos {
    uint64_t epoch, seq, chain;
};

#endif
