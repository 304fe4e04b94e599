/* tree.h: intrusive balanced search tree (a treap with parent links). The caller owns nodes, order and locking; it walks to
 * the place itself, so that one tree type serves every key. Priorities are a hash of the node's address: no shared state. */
#ifndef DMT_STORE_TREE_H
#define DMT_STORE_TREE_H

#include <stddef.h>
#include <stdint.h>

struct tnode {
    struct tnode *left, *right, *up;
};
struct tree {
    struct tnode *root;
};

/* Hangs n below `up` at *link (found by the caller's descent), then rotates it to where its priority belongs. */
void store_tree_link(struct tree *t, struct tnode *up, struct tnode **link, struct tnode *n);
void store_tree_erase(struct tree *t, struct tnode *n);
struct tnode *store_tree_first(const struct tree *t);
struct tnode *store_tree_last(const struct tree *t);
struct tnode *store_tree_next(const struct tnode *n);
struct tnode *store_tree_prev(const struct tnode *n);

#endif
