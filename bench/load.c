/*
 * The load of `holdfast bench`: HTTP/1.1 requests in a closed loop over N keep-alive connections, one request in flight on each.
 *
 * It shares the machine with the server that it measures, so it is made to need little CPU: one thread, epoll, no copy of a
 * body. Small bodies leave from a mapped memory file together with the head, large ones by sendfile; what comes back is
 * discarded in the kernel (MSG_TRUNC), except for every `check_every`th GET, which is compared byte by byte.
 *
 * The job comes on standard input, one `name value` per line, so no token is in anyone's process list; the result leaves as one
 * JSON object. bench/job.py has both formats and says what the fields mean. Built by bench/build.py: cc -O2 load.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HEAD_BYTES 16384                 /* an answer's head, and what of its body comes along */
#define SINK_BYTES (1 << 20)
#define INLINE_BODY_BYTES (128 << 10)    /* bodies up to this leave in one call with the head */
#define SENDFILE_BYTES (4 << 20)
#define BROKEN_IN_A_ROW_MAX 1000         /* then the server is taken for dead */

struct page { long long bytes; char *path; };

struct op {                              /* one kind of request; a job has one, a mix two */
    char method[8], *prefix;
    double share;
    int is_random;
    long long first, count;              /* keys first .. first+count-1; count 0: no end */
    long long issued, errors, bytes;
    uint32_t *took_us;
    size_t done, room;
};

static struct {
    char address[256], port[16], host[300], token[4096];
    int connections, is_drained, body_fd, variant_count, variant_step, check_every, op_count, page_count;
    double seconds, warmup, timeout;
    long long body_bytes;
    uint64_t seed;
    struct op ops[2];
    struct page *pages;
} job = {.connections = 1, .body_fd = -1, .variant_count = 1, .timeout = 60};

enum state { CLOSED, CONNECTING, SENDING, HEAD, BODY };

struct connection {
    int fd;
    enum state state;
    uint32_t events;
    struct op *op;
    uint64_t begin_ns;
    char request[8192];
    int request_bytes;
    long long body_bytes, sent;          /* sent: of head and body together */
    off_t variant_at;                    /* where this key's body begins in the memory file */
    char answer[HEAD_BYTES];
    int answer_bytes, status;
    int is_checked, is_wrong, has_answered_early, may_stay;
    long long expected, left, got;
};

static struct addrinfo *peer;
static struct connection *connections;
static int epoll_fd, open_count, can_truncate = 1, broken_in_a_row;
static const char *bodies;
static char sink[SINK_BYTES];
static uint64_t begin_ns, window_ns, stop_ns, last_ns;
static long long statuses[600], ok, failed, ok_bytes, broken, timeouts, wrong_length, wrong_body, checked;

static void die(const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec;
}

static uint64_t next_random(void)        /* splitmix64 */
{
    uint64_t z = (job.seed += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* ---- the job */

static void copy_text(char *to, size_t room, const char *text)
{
    if ((size_t)snprintf(to, room, "%s", text) >= room)
        die("a value is too long");
}

static void read_op(char *value)
{
    struct op *op = &job.ops[job.op_count++];
    char order[8], *prefix = strdup("");
    if (job.op_count > 2)
        die("more than two ops");
    if (sscanf(value, "%7s %lf %7s %lld %lld %ms", op->method, &op->share, order, &op->first, &op->count, &prefix) < 5)
        die("not an op: %s", value);
    op->is_random = strcmp(order, "random") == 0;
    op->prefix = prefix;
    if (op->is_random && op->count < 1)
        die("random keys need a count");
}

static void read_page(char *value)
{
    struct page page;
    if (sscanf(value, "%lld %ms", &page.bytes, &page.path) != 2)
        die("not a page: %s", value);
    job.pages = realloc(job.pages, sizeof page * (job.page_count + 1));
    if (!job.pages)
        die("no memory");
    job.pages[job.page_count++] = page;
}

static void read_line(const char *name, char *value)
{
#define TEXT(field) else if (!strcmp(name, #field)) copy_text(job.field, sizeof job.field, value)
#define WHOLE(field) else if (!strcmp(name, #field)) job.field = strtoll(value, NULL, 10)
#define REAL(field) else if (!strcmp(name, #field)) job.field = strtod(value, NULL)
    if (!strcmp(name, "op"))
        read_op(value);
    else if (!strcmp(name, "page"))
        read_page(value);
    TEXT(address); TEXT(port); TEXT(host); TEXT(token);
    WHOLE(connections); WHOLE(is_drained); WHOLE(body_fd); WHOLE(body_bytes); WHOLE(variant_count); WHOLE(variant_step);
    WHOLE(check_every); WHOLE(seed);
    REAL(seconds); REAL(warmup); REAL(timeout);
    else
        die("unknown line: %s", name);
}

static void read_job(void)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n')
            line[length - 1] = 0;
        char *value = strchr(line, ' ');
        if (!value)
            die("not a line of a job: %s", line);
        *value = 0;
        read_line(line, value + 1);
    }
    free(line);
    if (!job.op_count || job.connections < 1 || job.variant_count < 1)
        die("an incomplete job");
}

static void map_bodies(void)
{
    if (job.body_fd < 0)
        return;
    size_t length = job.body_bytes + (size_t)(job.variant_count - 1) * job.variant_step;
    struct stat found;
    if (fstat(job.body_fd, &found) || (size_t)found.st_size < length)
        die("the file of bodies is too short");
    bodies = mmap(NULL, length ? length : 1, PROT_READ, MAP_SHARED, job.body_fd, 0);
    if (bodies == MAP_FAILED)
        die("mmap: %s", strerror(errno));
}

/* ---- one request */

static struct op *pick_op(void)
{
    if (job.op_count == 2 && (next_random() >> 11) * (1.0 / 9007199254740992.0) >= job.ops[0].share)
        return &job.ops[1];
    return &job.ops[0];
}

/* Write the next request into `c`; 0 when its keys are used up. */
static int make_request(struct connection *c)
{
    struct op *op = c->op = pick_op();
    char key[16] = "";
    const char *path = op->prefix;
    c->expected = -1, c->body_bytes = 0, c->variant_at = 0, c->is_checked = 0;
    if (job.page_count) {
        struct page *page = &job.pages[op->issued % job.page_count];
        path = page->path, c->expected = page->bytes;
    } else {
        if (!op->is_random && op->count && op->issued >= op->count)
            return 0;
        long long number = op->first + (op->is_random ? (long long)(next_random() % op->count) : op->issued);
        snprintf(key, sizeof key, "%010lld", number);
        c->variant_at = (off_t)(number % job.variant_count) * job.variant_step;
        if (*op->method == 'G' || *op->method == 'H')
            c->expected = job.body_bytes;
        if (*op->method == 'G' && bodies && job.check_every)
            c->is_checked = next_random() % job.check_every == 0;
    }
    op->issued++;
    int n = snprintf(c->request, sizeof c->request, "%s %s%s HTTP/1.1\r\nHost: %s\r\nX-Auth-Token: %s\r\n",
                     op->method, path, key, job.host, job.token);
    if (*op->method == 'P' && n < (int)sizeof c->request) {
        c->body_bytes = job.body_bytes;
        n += snprintf(c->request + n, sizeof c->request - n, "Content-Type: application/octet-stream\r\nContent-Length: %lld\r\n",
                      job.body_bytes);
    }
    if (n + 3 > (int)sizeof c->request)
        die("a request head is too long");
    memcpy(c->request + n, "\r\n", 2);
    c->request_bytes = n + 2;
    return 1;
}

static void watch(struct connection *c, uint32_t events)
{
    struct epoll_event wanted = {.events = events, .data.ptr = c};
    if (c->events == events)
        return;
    if (epoll_ctl(epoll_fd, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &wanted))
        die("epoll: %s", strerror(errno));
    c->events = events;
}

static void close_connection(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1, c->events = 0, c->state = CLOSED;
}

static void open_connection(struct connection *c)
{
    int one = 1;
    c->fd = socket(peer->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, peer->ai_addr, peer->ai_addrlen) && errno != EINPROGRESS)
        shutdown(c->fd, SHUT_RDWR);      /* the first use of it reports what is wrong */
    c->state = CONNECTING;
    watch(c, EPOLLOUT);
}

static void record(struct connection *c, int is_ok)
{
    struct op *op = c->op;
    uint64_t now = now_ns();
    long long bytes = *op->method == 'P' ? c->body_bytes : *op->method == 'G' ? c->got : 0;
    if (is_ok)
        ok++, ok_bytes += bytes;
    else
        failed++, op->errors++;
    if (now < window_ns || (now > stop_ns && !job.is_drained))
        return;
    last_ns = now;
    if (!is_ok)
        return;
    if (op->done == op->room) {
        op->room = op->room ? 2 * op->room : 1 << 16;
        op->took_us = realloc(op->took_us, op->room * sizeof *op->took_us);
        if (!op->took_us)
            die("no memory");
    }
    uint64_t us = (now - c->begin_ns) / 1000;
    op->took_us[op->done++] = us > UINT32_MAX ? UINT32_MAX : us;
    op->bytes += bytes;
}

/* Send what the socket takes. 1 when all is sent, 0 when it would block, -1 when the connection is broken. */
static int send_request(struct connection *c)
{
    long long total = c->request_bytes + c->body_bytes;
    int is_inline = c->body_bytes <= INLINE_BODY_BYTES;
    while (c->sent < total) {
        ssize_t n;
        if (c->sent < c->request_bytes || is_inline) {
            long long at = c->sent < c->request_bytes ? 0 : c->sent - c->request_bytes;
            struct iovec parts[2];
            struct msghdr message = {.msg_iov = parts};
            if (c->sent < c->request_bytes)
                parts[message.msg_iovlen++] = (struct iovec){c->request + c->sent, c->request_bytes - c->sent};
            if (is_inline && c->body_bytes)
                parts[message.msg_iovlen++] = (struct iovec){(char *)bodies + c->variant_at + at, c->body_bytes - at};
            n = sendmsg(c->fd, &message, MSG_NOSIGNAL | (is_inline ? 0 : MSG_MORE));
        } else {
            off_t at = c->variant_at + c->sent - c->request_bytes;
            long long left = total - c->sent;
            n = sendfile(c->fd, job.body_fd, &at, left < SENDFILE_BYTES ? left : SENDFILE_BYTES);
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n <= 0)
            return -1;
        c->sent += n;
    }
    return 1;
}

static void check(struct connection *c, const char *bytes, long long length)
{
    if (c->is_checked && c->got + length <= job.body_bytes && memcmp(bytes, bodies + c->variant_at + c->got, length))
        c->is_wrong = 1;
}

static int header_is(const char *line, const char *name, const char **value)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) || line[length] != ':')
        return 0;
    *value = line + length + 1 + strspn(line + length + 1, " \t");
    return 1;
}

/* Take the head of an answer. 1 when it is complete, 0 when more has to come, -1 when it makes no sense. */
static int parse_head(struct connection *c)
{
    char *end, *line;
    const char *value;
    for (;;) {
        c->answer[c->answer_bytes] = 0;
        end = memmem(c->answer, c->answer_bytes, "\r\n\r\n", 4);
        if (!end)
            return c->answer_bytes >= HEAD_BYTES - 1 ? -1 : 0;
        if (strncmp(c->answer, "HTTP/1.", 7) || (c->status = atoi(c->answer + 9)) < 100 || c->status > 599)
            return -1;
        if (c->status >= 200)
            break;
        c->answer_bytes -= end + 4 - c->answer;
        memmove(c->answer, end + 4, c->answer_bytes);
    }
    long long length = -1;
    c->may_stay = c->answer[7] == '1';
    for (line = strchr(c->answer, '\n') + 1; line < end; line = strchr(line, '\n') + 1) {
        if (header_is(line, "content-length", &value))
            length = strtoll(value, NULL, 10);
        else if (header_is(line, "connection", &value) && !strncasecmp(value, "close", 5))
            c->may_stay = 0;
    }
    int has_body = *c->op->method != 'H' && c->status != 204 && c->status != 304;
    if (has_body && length < 0)
        return -1;                       /* chunked, or up to the end of the connection: no answer of ours is */
    if (*c->op->method == 'H' && c->expected >= 0)
        c->got = length;                 /* what a HEAD says is compared as if it had come */
    c->left = has_body ? length : 0;
    long long extra = c->answer + c->answer_bytes - (end + 4);
    if (extra > c->left)
        return -1;
    check(c, end + 4, extra);
    c->left -= extra;
    if (has_body)
        c->got = extra;
    return 1;
}

/* Take what is there of a body; as above. */
static int receive_body(struct connection *c)
{
    while (c->left) {
        size_t wanted = c->left < SINK_BYTES ? c->left : SINK_BYTES;
        int flags = can_truncate && !c->is_checked ? MSG_TRUNC : 0;
        ssize_t n = recv(c->fd, sink, wanted, flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0 && flags && (errno == EINVAL || errno == EOPNOTSUPP)) {
            can_truncate = 0;            /* a sandbox that has no such flag */
            continue;
        }
        if (n <= 0)
            return -1;
        check(c, sink, n);
        c->left -= n, c->got += n;
    }
    return 1;
}

/* ---- the loop */

static void begin(struct connection *c);

static void finish_broken(struct connection *c, long long *counter)
{
    ++*counter;
    close_connection(c);
    record(c, 0);
    if (++broken_in_a_row >= BROKEN_IN_A_ROW_MAX)
        stop_ns = 0;
    usleep(1000);                        /* a dead server is not asked in a tight loop */
    begin(c);
}

static void finish(struct connection *c)
{
    int is_ok = c->status / 100 == 2;
    broken_in_a_row = 0;
    statuses[c->status]++;
    checked += is_ok && c->is_checked;
    if (is_ok && c->expected >= 0 && c->got != c->expected)
        is_ok = 0, wrong_length++;
    if (is_ok && c->is_wrong)
        is_ok = 0, wrong_body++;
    record(c, is_ok);
    if (!c->may_stay || c->has_answered_early)
        close_connection(c);
    begin(c);
}

static void advance(struct connection *c, uint32_t events)
{
    if (c->state == CONNECTING)
        c->state = SENDING;              /* a connection that failed says so at the first send */
    if (c->state == SENDING) {
        int sent = send_request(c);
        if (sent == 1) {
            c->state = HEAD;
            watch(c, EPOLLIN);
            return;                      /* the answer is never there already */
        }
        if (sent < 0 && !(events & EPOLLIN)) {
            finish_broken(c, &broken);
            return;
        }
        if (!(events & EPOLLIN)) {
            watch(c, EPOLLIN | EPOLLOUT);
            return;
        }
        c->has_answered_early = 1;       /* a refusal, before the whole body was taken */
        c->state = HEAD;
        watch(c, EPOLLIN);
    }
    if (c->state == HEAD) {
        ssize_t n = recv(c->fd, c->answer + c->answer_bytes, HEAD_BYTES - 1 - c->answer_bytes, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        c->answer_bytes += n > 0 ? n : 0;
        int parsed = n <= 0 ? -1 : parse_head(c);
        if (parsed < 0)
            finish_broken(c, &broken);
        if (parsed <= 0)
            return;
        c->state = BODY;
    }
    if (c->state == BODY) {
        int received = receive_body(c);
        if (received < 0)
            finish_broken(c, &wrong_length);
        else if (received)
            finish(c);
    }
}

static void begin(struct connection *c)
{
    c->begin_ns = now_ns();
    if (c->begin_ns >= stop_ns || !make_request(c)) {
        close_connection(c);
        open_count--;
        return;
    }
    c->sent = c->got = c->left = c->answer_bytes = c->is_wrong = c->has_answered_early = 0;
    if (c->fd < 0) {
        open_connection(c);
        return;
    }
    c->state = SENDING;
    advance(c, 0);
}

static void end_overdue(uint64_t now)
{
    for (int i = 0; i < job.connections; i++)
        if (connections[i].fd >= 0 && now - connections[i].begin_ns > (uint64_t)(job.timeout * 1e9))
            finish_broken(&connections[i], &timeouts);
}

static void run(void)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct epoll_event events[256];
    if (getaddrinfo(job.address, job.port, &hints, &peer))
        die("not an address: %s port %s", job.address, job.port);
    connections = calloc(job.connections, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || epoll_fd < 0)
        die("no memory");
    begin_ns = now_ns();
    window_ns = last_ns = begin_ns + (uint64_t)(job.warmup * 1e9);
    stop_ns = window_ns + (uint64_t)(job.seconds * 1e9);
    open_count = job.connections;
    for (int i = 0; i < job.connections; i++) {
        connections[i].fd = -1;
        begin(&connections[i]);
    }
    uint64_t looked_ns = begin_ns;
    while (open_count > 0) {
        int count = epoll_wait(epoll_fd, events, 256, 100);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0)
                advance(c, events[i].events);
        }
        uint64_t now = now_ns();
        if (now - looked_ns > UINT64_C(100000000))
            end_overdue(looked_ns = now);
    }
}

/* ---- the result */

static int compare_us(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile_ms(const struct op *op, double share)     /* nearest rank */
{
    size_t rank = (size_t)(share * op->done);
    if (rank < share * op->done)
        rank++;
    return op->done ? op->took_us[rank ? rank - 1 : 0] / 1000.0 : 0;
}

static void print_op(struct op *op, double elapsed_s)
{
    qsort(op->took_us, op->done, sizeof *op->took_us, compare_us);
    printf("{\"method\":\"%s\",\"issued\":%lld,\"count\":%zu,\"errors\":%lld,\"bytes\":%lld,\"rate\":%.3f,"
           "\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}", op->method, op->issued, op->done, op->errors, op->bytes,
           op->done / elapsed_s, percentile_ms(op, 0.5), percentile_ms(op, 0.99), percentile_ms(op, 1));
}

static void print_result(void)
{
    uint64_t end_ns = now_ns();
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    /* drained, or out of keys before the time was over: up to the last answer */
    double elapsed_s = job.is_drained || end_ns < stop_ns || !stop_ns ? (last_ns - window_ns) / 1e9 : job.seconds;
    if (elapsed_s <= 0)
        elapsed_s = 1e-9;
    printf("{\"elapsed_s\":%.6f,\"total_s\":%.6f,\"ok\":%lld,\"failed\":%lld,\"bytes\":%lld,\"broken\":%lld,\"timeouts\":%lld,"
           "\"wrong_length\":%lld,\"wrong_body\":%lld,\"checked\":%lld,\"client_cpu_s\":%.4f,\"statuses\":{",
           elapsed_s, (end_ns - begin_ns) / 1e9, ok, failed, ok_bytes, broken, timeouts, wrong_length, wrong_body, checked,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    const char *comma = "";
    for (int i = 0; i < 600; i++)
        if (statuses[i]) {
            printf("%s\"%d\":%lld", comma, i, statuses[i]);
            comma = ",";
        }
    printf("},\"ops\":[");
    for (int i = 0; i < job.op_count; i++) {
        printf("%s", i ? "," : "");
        print_op(&job.ops[i], elapsed_s);
    }
    printf("]}\n");
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    read_job();
    map_bodies();
    run();
    print_result();
    return 0;
}
