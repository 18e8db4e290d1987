"""A raw NBD client that can say anything, and checks every byte the server says.

Used by the tests beside it. Names and numbers are those of the NBD protocol (doc/proto.md).
A reply that breaks a rule of the protocol raises Failure wherever it shows up, so that every test
that talks to a server is also a test of the framing.
"""

import collections
import socket
import struct
import threading
import time

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71

FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2

(OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK_EXPORT, OPT_STARTTLS, OPT_INFO, OPT_GO,
 OPT_STRUCTURED_REPLY, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS) = range(1, 12)

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERR = 1 << 31
(REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_INVALID, REP_ERR_PLATFORM, REP_ERR_TLS_REQD, REP_ERR_UNKNOWN,
 REP_ERR_SHUTDOWN, REP_ERR_BLOCK_SIZE_REQD, REP_ERR_TOO_BIG, REP_ERR_EXT_HEADER_REQD) = (
     REP_ERR + n for n in range(1, 11))

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

(TF_HAS_FLAGS, TF_READ_ONLY, TF_SEND_FLUSH, TF_SEND_FUA, TF_ROTATIONAL, TF_SEND_TRIM, TF_SEND_WRITE_ZEROES,
 TF_SEND_DF, TF_CAN_MULTI_CONN, TF_SEND_RESIZE, TF_SEND_CACHE, TF_SEND_FAST_ZERO,
 TF_BLOCK_STATUS_PAYLOAD) = (1 << n for n in range(13))

(CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS,
 CMD_RESIZE) = range(9)
CMD_NAMES = ["READ", "WRITE", "DISC", "FLUSH", "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS", "RESIZE"]

FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

REPLY_FLAG_DONE = 1
CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE, CHUNK_BLOCK_STATUS = 0, 1, 2, 5
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 0x8001, 0x8002

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
ERROR_NAMES = {0: "OK", EPERM: "EPERM", EIO: "EIO", ENOMEM: "ENOMEM", EINVAL: "EINVAL", ENOSPC: "ENOSPC",
               EOVERFLOW: "EOVERFLOW", ENOTSUP: "ENOTSUP", ESHUTDOWN: "ESHUTDOWN"}

STATE_HOLE, STATE_ZERO = 1, 2

MAX_STRING = 4096
MAX_PAYLOAD = 32 << 20
MAX_LENGTH = (1 << 32) - 1

OptionReply = collections.namedtuple("OptionReply", "type data")
Chunk = collections.namedtuple("Chunk", "type data")
Export = collections.namedtuple("Export", "size flags infos")


class Failure(AssertionError):
    """What was expected and what came instead."""

    def __init__(self, what, expected, got):
        super().__init__(f"{what}\n      expected: {expected}\n      got:      {got}")


def reply_name(kind):
    names = {REP_ACK: "ACK", REP_SERVER: "SERVER", REP_INFO: "INFO", REP_META_CONTEXT: "META_CONTEXT",
             REP_ERR_UNSUP: "ERR_UNSUP", REP_ERR_POLICY: "ERR_POLICY", REP_ERR_INVALID: "ERR_INVALID",
             REP_ERR_PLATFORM: "ERR_PLATFORM", REP_ERR_TLS_REQD: "ERR_TLS_REQD", REP_ERR_UNKNOWN: "ERR_UNKNOWN",
             REP_ERR_SHUTDOWN: "ERR_SHUTDOWN", REP_ERR_BLOCK_SIZE_REQD: "ERR_BLOCK_SIZE_REQD",
             REP_ERR_TOO_BIG: "ERR_TOO_BIG", REP_ERR_EXT_HEADER_REQD: "ERR_EXT_HEADER_REQD"}
    return names.get(kind, f"reply type {kind:#x}")


def error_name(error):
    return ERROR_NAMES.get(error, f"error {error}")


def option_bytes(option, data=b"", length=None, magic=IHAVEOPT):
    """The wire form of an option; `length` lies about the size of `data` where it is given."""
    return struct.pack(">QII", magic, option, len(data) if length is None else length) + data


def go_data(name, infos=()):
    raw = name.encode() if isinstance(name, str) else name
    return struct.pack(">I", len(raw)) + raw + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta_data(name, queries):
    raw = name.encode() if isinstance(name, str) else name
    out = [struct.pack(">I", len(raw)), raw, struct.pack(">I", len(queries))]
    for query in queries:
        text = query.encode() if isinstance(query, str) else query
        out += [struct.pack(">I", len(text)), text]
    return b"".join(out)


def request_bytes(command, offset=0, length=0, flags=0, cookie=0, payload=b"", magic=REQUEST_MAGIC):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + payload


class Reply:
    """Everything the server said about one request."""

    def __init__(self, command, offset, length, flags):
        self.command, self.offset, self.length, self.flags = command, offset, length, flags
        self.structured = False
        self.error = 0
        self.error_text = ""
        self.chunks = []      # Chunk values in order of arrival; empty for a simple reply
        self.data = None      # bytes of a successful READ
        self.extents = {}     # context id -> [(length, status)]
        self.covered = []     # [(offset, length)] of content chunks
        self.parts = []       # [(offset, bytes)] of data chunks


class Wire:
    """One connection. Nothing happens by itself: a test says each message it wants sent."""

    def __init__(self, address, timeout=10, receive_buffer=None):
        """`address`: a path (Unix socket), a (host, port) pair, or a connected socket."""
        if isinstance(address, socket.socket):
            self.sock = address
        else:
            if isinstance(address, str):
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            else:
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                self.sock = socket.socket(family, socket.SOCK_STREAM)
            if receive_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.sock.settimeout(timeout)
            self.sock.connect(address)
            if self.sock.family != socket.AF_UNIX:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(timeout)
        self.timeout = timeout
        self.buffer = bytearray()
        self.structured = False
        self.size = 0
        self.flags = 0
        self.pending = {}     # cookie -> deque of Reply
        self.next_cookie = 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- bytes ------------------------------------------------------------------------------------

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST on TCP, so that the server sees an error and not an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Failure("sending to the server", f"{len(data)} bytes taken", error) from None

    def send_in_background(self, data):
        """For more bytes than the socket holds while the replies are not read yet."""
        def run():
            try:
                self.sock.sendall(data)
            except OSError:
                pass   # the reading side of the test reports what matters
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def fill(self, count, what):
        while len(self.buffer) < count:
            try:
                data = self.sock.recv(min(max(count - len(self.buffer), 65536), 1 << 20))
            except socket.timeout:
                raise Failure(what, f"{count} bytes within {self.timeout} s",
                              f"{len(self.buffer)} bytes and then silence") from None
            except (ConnectionResetError, BrokenPipeError) as error:
                raise Failure(what, f"{count} bytes", f"{len(self.buffer)} bytes and then {error}") from None
            if not data:
                raise Failure(what, f"{count} bytes", f"{len(self.buffer)} bytes and then the connection closed")
            self.buffer += data

    def receive(self, count, what="bytes from the server"):
        self.fill(count, what)
        out = bytes(self.buffer[:count])
        del self.buffer[:count]
        return out

    def drain_until_closed(self, within=None, limit=1 << 30):
        """All bytes until the server closes; Failure if it does not within `within` seconds."""
        deadline = time.monotonic() + (within or self.timeout)
        out = bytes(self.buffer)
        self.buffer.clear()
        while len(out) < limit:
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.sock.recv(1 << 20)
            except socket.timeout:
                raise Failure("waiting for the server to close the connection",
                              f"closed within {within or self.timeout} s", "still open") from None
            except (ConnectionResetError, BrokenPipeError):
                break
            finally:
                self.sock.settimeout(self.timeout)
            if not data:
                break
            out += data
        return out

    def expect_closed(self, what, within=None):
        rest = self.drain_until_closed(within)
        if rest:
            raise Failure(what, "the connection closed and nothing more sent",
                          f"{len(rest)} bytes first: {rest[:64].hex()}")

    def expect_silence(self, what, seconds=0.1):
        """Nothing more comes and the connection stays open."""
        self.sock.settimeout(seconds)
        try:
            data = bytes(self.buffer) or self.sock.recv(4096)
        except socket.timeout:
            return
        finally:
            self.sock.settimeout(self.timeout)
        raise Failure(what, "silence on an open connection", data[:64].hex() if data else "closed")

    # -- handshake --------------------------------------------------------------------------------

    def greeting(self):
        magic, option_magic, flags = struct.unpack(">QQH", self.receive(18, "the greeting"))
        if (magic, option_magic) != (NBDMAGIC, IHAVEOPT):
            raise Failure("the greeting", "NBDMAGIC IHAVEOPT", f"{magic:#x} {option_magic:#x}")
        return flags

    def start(self, client_flags=3):
        """Greeting and client flags."""
        flags = self.greeting()
        self.send(struct.pack(">I", client_flags))
        return flags

    def send_option(self, option, data=b"", length=None, magic=IHAVEOPT):
        self.send(option_bytes(option, data, length, magic))

    def option_reply(self, option):
        magic, echoed, kind, length = struct.unpack(">QIII", self.receive(20, f"the reply to option {option}"))
        if magic != OPTION_REPLY_MAGIC:
            raise Failure(f"reply to option {option}", f"magic {OPTION_REPLY_MAGIC:#x}", f"{magic:#x}")
        if echoed != option:
            raise Failure(f"reply to option {option}", f"option {option} echoed", f"option {echoed}")
        if length > 16 + 2 * MAX_STRING:
            raise Failure(f"reply to option {option}", "a payload of a few KiB at most", f"{length} bytes")
        data = self.receive(length, f"the payload of the reply to option {option}")
        if kind == REP_ACK and data:
            raise Failure(f"ACK to option {option}", "no payload", data[:64].hex())
        if kind & REP_ERR:
            if kind > REP_ERR_EXT_HEADER_REQD:
                raise Failure(f"reply to option {option}", "an error type of the protocol", f"{kind:#x}")
            if len(data) > MAX_STRING:
                raise Failure(f"error text for option {option}", f"at most {MAX_STRING} bytes", len(data))
            self.check_text(data, f"error text for option {option}")
        elif kind not in (REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT):
            raise Failure(f"reply to option {option}", "a reply type of the protocol", f"{kind:#x}")
        return OptionReply(kind, data)

    @staticmethod
    def check_text(data, what):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise Failure(what, "valid UTF-8", data[:64]) from None
        if "\0" in text:
            raise Failure(what, "no NUL in a string", data[:64])
        return text

    def option_replies(self, option):
        """Every reply up to and with the ACK or the error that ends them."""
        out = []
        while True:
            out.append(self.option_reply(option))
            if out[-1].type == REP_ACK or out[-1].type & REP_ERR:
                return out

    def option(self, option, data=b"", length=None):
        """Sends an option and returns all replies."""
        self.send_option(option, data, length)
        return self.option_replies(option)

    def expect_option(self, option, data, expected, what):
        """The option ends in one of the reply types `expected`; returns all replies."""
        replies = self.option(option, data)
        wanted = expected if isinstance(expected, (tuple, list, set)) else (expected,)
        if replies[-1].type not in wanted:
            raise Failure(what, " or ".join(reply_name(w) for w in wanted),
                          f"{reply_name(replies[-1].type)} {replies[-1].data[:80]!r}")
        return replies

    def structured_replies(self):
        self.expect_option(OPT_STRUCTURED_REPLY, b"", REP_ACK, "STRUCTURED_REPLY")
        self.structured = True

    def list_exports(self):
        """name -> description of every export."""
        out = {}
        for reply in self.expect_option(OPT_LIST, b"", REP_ACK, "LIST")[:-1]:
            if reply.type != REP_SERVER or len(reply.data) < 4:
                raise Failure("LIST", "REP_SERVER replies", reply)
            (length,) = struct.unpack(">I", reply.data[:4])
            if length > len(reply.data) - 4 or length > MAX_STRING:
                raise Failure("LIST", "a name inside its reply", f"name of {length} in {len(reply.data)} bytes")
            name = self.check_text(reply.data[4:4 + length], "an export name")
            if name in out:
                raise Failure("LIST", "each export once", f"{name} twice")
            out[name] = self.check_text(reply.data[4 + length:], "a description")
        return out

    def contexts(self, option, name, queries, what="meta contexts"):
        """{context name: id} from LIST_ or SET_META_CONTEXT that must succeed."""
        out = {}
        for reply in self.expect_option(option, meta_data(name, queries), REP_ACK, what)[:-1]:
            if reply.type != REP_META_CONTEXT or len(reply.data) < 5:
                raise Failure(what, "META_CONTEXT replies", reply)
            context = self.check_text(reply.data[4:], "a context name")
            if context in out:
                raise Failure(what, "each context once", f"{context} twice")
            out[context] = struct.unpack(">I", reply.data[:4])[0]
        if option == OPT_SET_META_CONTEXT and len(set(out.values())) != len(out):
            raise Failure(what, "unique context ids", out)
        return out

    @staticmethod
    def parse_infos(replies):
        """Export of a successful INFO or GO: size, flags and {info type: payload}."""
        infos = {}
        for reply in replies[:-1]:
            if reply.type != REP_INFO or len(reply.data) < 2:
                raise Failure("INFO or GO", "REP_INFO replies before the ACK", reply)
            (kind,) = struct.unpack(">H", reply.data[:2])
            if kind in infos:
                raise Failure("INFO or GO", "each info once", f"info {kind} twice")
            infos[kind] = reply.data[2:]
        if INFO_EXPORT not in infos:
            raise Failure("INFO or GO", "INFO_EXPORT before the ACK", sorted(infos))
        if len(infos[INFO_EXPORT]) != 10:
            raise Failure("INFO_EXPORT", "12 bytes in all", 2 + len(infos[INFO_EXPORT]))
        for kind in (INFO_NAME, INFO_DESCRIPTION):
            if kind in infos:
                Wire.check_text(infos[kind], f"info {kind}")
        if INFO_BLOCK_SIZE in infos:
            if len(infos[INFO_BLOCK_SIZE]) != 12:
                raise Failure("INFO_BLOCK_SIZE", "14 bytes in all", 2 + len(infos[INFO_BLOCK_SIZE]))
            infos[INFO_BLOCK_SIZE] = struct.unpack(">III", infos[INFO_BLOCK_SIZE])
        size, flags = struct.unpack(">QH", infos[INFO_EXPORT])
        if not flags & TF_HAS_FLAGS:
            raise Failure("transmission flags", "HAS_FLAGS", f"{flags:#x}")
        return Export(size, flags, infos)

    def go(self, name, infos=(), option=OPT_GO):
        replies = self.expect_option(option, go_data(name, infos), REP_ACK, f"{'GO' if option == OPT_GO else 'INFO'} {name!r}")
        export = self.parse_infos(replies)
        if option == OPT_GO:
            self.size, self.flags = export.size, export.flags
        return export

    def export_name(self, name, padding=0):
        """EXPORT_NAME that must succeed, followed by exactly `padding` zero bytes."""
        self.send_option(OPT_EXPORT_NAME, name.encode())
        self.size, self.flags = struct.unpack(">QH", self.receive(10, "the reply to EXPORT_NAME"))
        zeroes = self.receive(padding, "the zero padding after EXPORT_NAME")
        if zeroes != bytes(padding):
            raise Failure("padding after EXPORT_NAME", f"{padding} zero bytes", zeroes.hex())

    # -- transmission -----------------------------------------------------------------------------

    def register(self, command, offset, length, flags, cookie):
        self.pending.setdefault(cookie, collections.deque()).append(Reply(command, offset, length, flags))

    def request(self, command, offset=0, length=0, flags=0, payload=b"", cookie=None, send=True):
        """Sends a request (or returns its bytes) and remembers what reply is due. Returns the cookie, or the bytes."""
        if cookie is None:
            cookie = self.next_cookie
            self.next_cookie += 1
        self.register(command, offset, length, flags, cookie)
        data = request_bytes(command, offset, length, flags, cookie, payload)
        if not send:
            return data
        self.send(data)
        return cookie

    def reply(self):
        """The next complete reply: (cookie, Reply). Chunks of other requests may come in between."""
        while True:
            done = self.message()
            if done:
                return done

    def message(self):
        """Reads one simple reply or one chunk; returns (cookie, Reply) where that completes a request."""
        (magic,) = struct.unpack(">I", self.receive(4, "a reply magic"))
        if magic == SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack(">IQ", self.receive(12, "a simple reply"))
            reply = self.expected(cookie)
            if self.structured and reply.command == CMD_READ:
                raise Failure("reply to READ with structured replies", "chunks", "a simple reply")
            self.check_error(error, reply, allow_zero=True)
            reply.error = error
            if reply.command == CMD_READ and not error:
                reply.data = self.receive(reply.length, "the data of a READ")
            if reply.command == CMD_BLOCK_STATUS and not error:
                raise Failure("reply to BLOCK_STATUS", "chunks or an error", "simple success")
            return self.complete(cookie)
        if magic != STRUCTURED_REPLY_MAGIC:
            raise Failure("reply magic", f"{SIMPLE_REPLY_MAGIC:#x} or {STRUCTURED_REPLY_MAGIC:#x}", f"{magic:#x}")
        if not self.structured:
            raise Failure("reply", "a simple reply: structured replies were not negotiated", "a chunk")
        flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16, "a chunk header"))
        reply = self.expected(cookie)
        reply.structured = True
        if flags & ~REPLY_FLAG_DONE:
            raise Failure("chunk flags", "DONE at most", f"{flags:#x}")
        if length > MAX_PAYLOAD + 4096:
            raise Failure("chunk length", f"at most {MAX_PAYLOAD}", length)
        self.chunk(reply, kind, self.receive(length, "the payload of a chunk"), flags)
        if flags & REPLY_FLAG_DONE:
            self.finish(reply)
            return self.complete(cookie)
        return None

    def expected(self, cookie):
        if not self.pending.get(cookie):
            raise Failure("cookie of a reply", "one of a request that waits for its reply", f"{cookie:#x}")
        return self.pending[cookie][0]

    def complete(self, cookie):
        reply = self.pending[cookie].popleft()
        if not self.pending[cookie]:
            del self.pending[cookie]
        return cookie, reply

    @staticmethod
    def check_error(error, reply, allow_zero=False):
        if error not in ERROR_NAMES or (error == 0 and not allow_zero):
            raise Failure(f"error for command {reply.command}", "an error of the protocol", error)

    def chunk(self, reply, kind, data, flags):
        reply.chunks.append(Chunk(kind, data))
        if kind == CHUNK_NONE:
            if data or not flags & REPLY_FLAG_DONE:
                raise Failure("chunk NONE", "no payload, and DONE", f"{len(data)} bytes, flags {flags}")
        elif kind == CHUNK_OFFSET_DATA:
            if len(data) < 9 or reply.command != CMD_READ:
                raise Failure("chunk OFFSET_DATA", "at least 9 bytes, for a READ", f"{len(data)}, command {reply.command}")
            (offset,) = struct.unpack(">Q", data[:8])
            self.cover(reply, offset, len(data) - 8)
            reply.parts.append((offset, data[8:]))
        elif kind == CHUNK_OFFSET_HOLE:
            if len(data) != 12 or reply.command != CMD_READ:
                raise Failure("chunk OFFSET_HOLE", "12 bytes, for a READ", f"{len(data)}, command {reply.command}")
            self.cover(reply, *struct.unpack(">QI", data))
        elif kind == CHUNK_BLOCK_STATUS:
            self.block_status_chunk(reply, data)
        elif kind in (CHUNK_ERROR, CHUNK_ERROR_OFFSET):
            tail = 8 if kind == CHUNK_ERROR_OFFSET else 0
            if len(data) < 6 + tail:
                raise Failure("error chunk", f"at least {6 + tail} bytes", len(data))
            error, length = struct.unpack(">IH", data[:6])
            if length > len(data) - 6 - tail or length > MAX_STRING:
                raise Failure("error chunk", "the message inside the chunk", f"{length} of {len(data)}")
            self.check_error(error, reply)
            reply.error = error
            reply.error_text = self.check_text(data[6:6 + length], "error text")
            if kind == CHUNK_ERROR_OFFSET:
                (offset,) = struct.unpack(">Q", data[6 + length:14 + length])
                if not reply.offset <= offset < reply.offset + max(reply.length, 1):
                    raise Failure("error offset", f"inside {reply.offset}+{reply.length}", offset)
        else:
            raise Failure("chunk type", "one of the protocol", f"{kind:#x}")

    @staticmethod
    def cover(reply, offset, length):
        if length == 0:
            raise Failure("content chunk", "at least one byte", 0)
        if offset < reply.offset or offset + length > reply.offset + reply.length:
            raise Failure("content chunk", f"inside {reply.offset}+{reply.length}", f"{offset}+{length}")
        reply.covered.append((offset, length))

    @staticmethod
    def block_status_chunk(reply, data):
        if reply.command != CMD_BLOCK_STATUS:
            raise Failure("chunk BLOCK_STATUS", "for a BLOCK_STATUS", f"command {reply.command}")
        if len(data) < 12 or (len(data) - 4) % 8:
            raise Failure("chunk BLOCK_STATUS", "4 + 8n bytes", len(data))
        (context,) = struct.unpack(">I", data[:4])
        if context in reply.extents:
            raise Failure("BLOCK_STATUS", "one chunk per context", f"two for context {context}")
        extents = list(struct.iter_unpack(">II", data[4:]))
        if len(extents) > 1 << 20:
            raise Failure("BLOCK_STATUS", "at most 2^20 extents", len(extents))
        if any(length == 0 for length, _ in extents):
            raise Failure("BLOCK_STATUS", "extents of nonzero length", "an extent of 0")
        if reply.flags & REQ_ONE and (len(extents) != 1 or extents[0][0] > reply.length):
            raise Failure("BLOCK_STATUS with REQ_ONE", f"one extent of at most {reply.length}", extents[:3])
        if sum(length for length, _ in extents[:-1]) >= max(reply.length, 1):
            raise Failure("BLOCK_STATUS", "only the last extent beyond the request", extents[-3:])
        reply.extents[context] = extents

    def finish(self, reply):
        """Rules about a structured reply as a whole."""
        ordered = sorted(reply.covered)
        for (offset, length), (following, _) in zip(ordered, ordered[1:]):
            if offset + length > following:
                raise Failure("content chunks", "no overlap", f"{offset}+{length} and {following}")
        if reply.error:
            return
        if reply.command == CMD_READ:
            total = sum(length for _, length in reply.covered)
            if total != reply.length:
                raise Failure("content of a READ", f"{reply.length} bytes covered", total)
            if reply.flags & DF and len(reply.covered) > 1:
                raise Failure("READ with DF", "one content chunk at most", len(reply.covered))
            out = bytearray(reply.length)
            for offset, data in reply.parts:
                out[offset - reply.offset:offset - reply.offset + len(data)] = data
            reply.data = bytes(out)
        if reply.command == CMD_BLOCK_STATUS:
            if not reply.extents:
                raise Failure("BLOCK_STATUS", "a status chunk or an error", "neither")
            for extents in reply.extents.values():
                end = reply.offset + sum(length for length, _ in extents)
                if end > self.size:
                    raise Failure("BLOCK_STATUS", f"no extent past the end ({self.size})", end)

    # -- conveniences: one request, its reply ------------------------------------------------------

    def call(self, command, offset=0, length=0, flags=0, payload=b"", cookie=None):
        self.request(command, offset, length, flags, payload, cookie)
        return self.reply()[1]

    def expect(self, error, command, offset=0, length=0, flags=0, payload=b"", what=None):
        """One request that must end in `error` (or one of several); returns the Reply."""
        reply = self.call(command, offset, length, flags, payload)
        wanted = error if isinstance(error, (tuple, list, set)) else (error,)
        if reply.error not in wanted:
            name = CMD_NAMES[command] if command < len(CMD_NAMES) else f"command {command}"
            raise Failure(what or f"{name} {offset}+{length} flags {flags:#x}", " or ".join(error_name(e) for e in wanted),
                          f"{error_name(reply.error)} {reply.error_text}")
        return reply

    def read(self, offset, length, flags=0):
        return self.expect(0, CMD_READ, offset, length, flags).data

    def write(self, offset, data, flags=0):
        self.expect(0, CMD_WRITE, offset, len(data), flags, data)

    def flush(self):
        self.expect(0, CMD_FLUSH)

    def trim(self, offset, length, flags=0):
        self.expect(0, CMD_TRIM, offset, length, flags)

    def zero(self, offset, length, flags=0):
        self.expect(0, CMD_WRITE_ZEROES, offset, length, flags)

    def block_status(self, offset, length, flags=0):
        """The extents of the only context: [(length, status)]."""
        reply = self.expect(0, CMD_BLOCK_STATUS, offset, length, flags)
        if len(reply.extents) != 1:
            raise Failure("BLOCK_STATUS", "one context", list(reply.extents))
        return next(iter(reply.extents.values()))

    def disconnect(self):
        """DISC, then an orderly close by the server with nothing sent."""
        self.send(request_bytes(CMD_DISC))
        self.expect_closed("after DISC")
        self.close()
