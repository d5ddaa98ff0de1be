/* SPDX-License-Identifier: Apache-2.0 */
/* The ring against its own rules, and check() itself, which must end the process. */
#include "base/list.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct node {
    int number;
    struct list link;
};

static void assert_numbers(struct list *head, const int *expected, size_t n)
{
    size_t i = 0;
    list_for_each (it, head) {
        assert_true(i < n);
        assert_int_equal(container_of(it, struct node, link)->number, expected[i++]);
        assert_ptr_equal(it->next->prev, it);
    }
    assert_int_equal(i, n);
}

static void test_list(void **state)
{
    struct list head;
    struct node nodes[4] = {{1, {0}}, {2, {0}}, {3, {0}}, {4, {0}}};
    list_init(&head);
    assert_true(list_empty(&head));
    assert_null(list_pop(&head));
    assert_false(list_linked(&nodes[0].link));
    list_remove(&nodes[0].link); /* zeroed: nothing happens */
    for (int i = 0; i < 3; i++)
        list_push(&head, &nodes[i].link);
    list_insert(&nodes[0].link, &nodes[3].link);
    assert_numbers(&head, (int[]){1, 4, 2, 3}, 4);
    list_remove(&nodes[1].link);
    list_remove(&nodes[1].link);
    assert_false(list_linked(&nodes[1].link));
    assert_numbers(&head, (int[]){1, 4, 3}, 3);
    assert_ptr_equal(list_pop(&head), &nodes[0].link);
    list_push(&head, &nodes[0].link);
    assert_numbers(&head, (int[]){4, 3, 1}, 3);
    list_for_each_safe (it, next, &head)
        list_remove(it);
    assert_true(list_empty(&head));
}

static void test_check(void **state)
{
    int status = 0;
    check(1 + 1 == 2);
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        check(1 + 1 == 3);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true((WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) ||
                (WIFEXITED(status) && WEXITSTATUS(status) == 134));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
