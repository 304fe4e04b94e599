/* tree.c: the treap of tree.h.
 *
 * Happy path: a new node is hung below a leaf and rotated up while its priority beats its parent's;
 * a node to erase is rotated down until it has at most one child, then spliced out. Expected depth
 * is logarithmic whatever the order of insertion, since the priority is a hash of the address.
 * Failure modes: none, nothing is allocated. Thread: the owner of the tree.
 */
#include "fs/store/tree.h"

static uint64_t priority(const struct tnode *n)
{
    uint64_t x = (uint64_t)(uintptr_t)n >> 4;
    x *= 0x9e3779b97f4a7c15ull;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9ull;
    return x ^ x >> 32;
}

static struct tnode **slot_of(struct tree *t, struct tnode *n)
{
    if (!n->up)
        return &t->root;
    return n->up->left == n ? &n->up->left : &n->up->right;
}

/* Lifts n above its parent. */
static void rotate_up(struct tree *t, struct tnode *n)
{
    struct tnode *p = n->up;
    struct tnode **slot = slot_of(t, p);
    if (p->left == n) {
        p->left = n->right;
        if (p->left)
            p->left->up = p;
        n->right = p;
    } else {
        p->right = n->left;
        if (p->right)
            p->right->up = p;
        n->left = p;
    }
    n->up = p->up;
    p->up = n;
    *slot = n;
}

void store_tree_link(struct tree *t, struct tnode *up, struct tnode **link, struct tnode *n)
{
    n->left = n->right = NULL;
    n->up = up;
    *link = n;
    uint64_t mine = priority(n);
    while (n->up && priority(n->up) < mine)
        rotate_up(t, n);
}

void store_tree_erase(struct tree *t, struct tnode *n)
{
    while (n->left && n->right)
        rotate_up(t, priority(n->left) > priority(n->right) ? n->left : n->right);
    struct tnode *child = n->left ? n->left : n->right;
    *slot_of(t, n) = child;
    if (child)
        child->up = n->up;
    n->left = n->right = n->up = NULL;
}

struct tnode *store_tree_first(const struct tree *t)
{
    struct tnode *n = t->root;
    while (n && n->left)
        n = n->left;
    return n;
}

struct tnode *store_tree_last(const struct tree *t)
{
    struct tnode *n = t->root;
    while (n && n->right)
        n = n->right;
    return n;
}

struct tnode *store_tree_next(const struct tnode *n)
{
    if (n->right) {
        n = n->right;
        while (n->left)
            n = n->left;
        return (struct tnode *)(uintptr_t)n;
    }
    while (n->up && n->up->right == n)
        n = n->up;
    return n->up;
}

struct tnode *store_tree_prev(const struct tnode *n)
{
    if (n->left) {
        n = n->left;
        while (n->right)
            n = n->right;
        return (struct tnode *)(uintptr_t)n;
    }
    while (n->up && n->up->left == n)
        n = n->up;
    return n->up;
}
