/* list.h: intrusive doubly linked list and hash table, header only. The caller owns the nodes and the locking. */
#ifndef DMT_BASE_LIST_H
#define DMT_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dmt_list {
    struct dmt_list *next, *prev;
};
#define DMT_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

static inline void dmt_list_init(struct dmt_list *l) { l->next = l->prev = l; }
static inline bool dmt_list_empty(const struct dmt_list *l) { return l->next == l; }
static inline void dmt_list_add_tail(struct dmt_list *l, struct dmt_list *n)
{
    n->prev = l->prev;
    n->next = l;
    l->prev->next = n;
    l->prev = n;
}
static inline void dmt_list_add_head(struct dmt_list *l, struct dmt_list *n) { dmt_list_add_tail(l->next, n); }
static inline void dmt_list_del(struct dmt_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->next = n->prev = n;
}
/* Safe against deletion of the current node. */
#define DMT_LIST_EACH(it, tmp, head)                                                               \
    for (struct dmt_list *it = (head)->next, *tmp = it->next; it != (head); it = tmp, tmp = it->next)

#endif
