/* Greets the caller from C: GET …?name=Ada answers "Hello from C, Ada!".
 *
 * Besides wasi:http it uses the C library's stdio, environment and clock, which reach the host
 * through the preview 1 adapter: the component imports WASI beyond the proxy world. */

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy.h"

enum { NAME_BYTES_MAX = 256, ANSWER_BYTES_MAX = 512 };

/* Copies the query value `name` out of `target`, decoded and cut to fit; "world" if none is there. */
static void name_of(const char *target, size_t length, char out[NAME_BYTES_MAX]) {
    static const char key[] = "name=";
    const size_t key_length = sizeof key - 1;
    const char *end = target + length;
    const char *at = memchr(target, '?', length);
    while (at != NULL) {
        at++;
        if ((size_t)(end - at) >= key_length && memcmp(at, key, key_length) == 0) {
            break;
        }
        at = memchr(at, '&', (size_t)(end - at));
    }
    size_t n = 0;
    for (at = at == NULL ? end : at + key_length; at < end && *at != '&'; at++) {
        char c = *at == '+' ? ' ' : *at;
        if (c == '%' && end - at > 2 && isxdigit((unsigned char)at[1]) &&
            isxdigit((unsigned char)at[2])) {
            const char hex[] = {at[1], at[2], '\0'};
            c = (char)strtol(hex, NULL, 16);
            at += 2;
        }
        if (n + 1 < NAME_BYTES_MAX) {
            out[n++] = c;
        }
    }
    out[n] = '\0';
    if (n == 0) {
        strcpy(out, "world");
    }
}

/* Answers 200 with `text`, of at most ANSWER_BYTES_MAX bytes. */
static void answer(wasi_http_types_own_response_outparam_t out, char *text) {
    wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
    proxy_string_t type_name;
    proxy_string_set(&type_name, "content-type");
    char plain[] = "text/plain; charset=utf-8";
    wasi_http_types_field_value_t plain_value = {(uint8_t *)plain, sizeof plain - 1};
    wasi_http_types_list_field_value_t values = {&plain_value, 1};
    wasi_http_types_header_error_t header_error;
    wasi_http_types_method_fields_set(wasi_http_types_borrow_fields(headers), &type_name, &values,
                                      &header_error);

    wasi_http_types_own_outgoing_response_t response =
        wasi_http_types_constructor_outgoing_response(headers);
    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_method_outgoing_response_body(wasi_http_types_borrow_outgoing_response(response),
                                                  &body);
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false};
    result.val.ok = response;
    wasi_http_types_static_response_outparam_set(out, &result);

    wasi_io_streams_own_output_stream_t stream;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream);
    proxy_list_u8_t bytes = {(uint8_t *)text, strlen(text)};
    wasi_io_streams_stream_error_t stream_error;
    wasi_io_streams_method_output_stream_blocking_write_and_flush(
        wasi_io_streams_borrow_output_stream(stream), &bytes, &stream_error);
    wasi_io_streams_output_stream_drop_own(stream);
    wasi_http_types_error_code_t finish_error;
    wasi_http_types_static_outgoing_body_finish(body, NULL, &finish_error);
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t out) {
    char name[NAME_BYTES_MAX] = "world";
    proxy_string_t target;
    if (wasi_http_types_method_incoming_request_path_with_query(
            wasi_http_types_borrow_incoming_request(request), &target)) {
        name_of((const char *)target.ptr, target.len, name);
        proxy_string_free(&target);
    }
    wasi_http_types_incoming_request_drop_own(request);

    const char *greeting = getenv("GREETING");
    char text[ANSWER_BYTES_MAX];
    snprintf(text, sizeof text, "%.64s from C, %s!\n", greeting == NULL ? "Hello" : greeting, name);

    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("greeted at %lld.%03ld\n", (long long)now.tv_sec, now.tv_nsec / 1000000);
    fflush(stdout);
    answer(out, text);
}
