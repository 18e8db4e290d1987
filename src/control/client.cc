#include "control/client.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/limits.h"

namespace fdbnbd::control {

namespace {

constexpr size_t kReceiveBytes = 64 * limits::kKiB;
constexpr int kWaitMs = 200;

tl::unexpected<Error> server_gone() {
  return fail(Errc::peer_gone, "the server went away before it answered");
}

}  // namespace

Client::Client(net::OwnedFd socket) : socket_(std::move(socket)), lines_(limits::kMaxControlReplyBytes) {}

Result<std::string> Client::call(const Request& request, FunctionRef<void(ProgressReport)> on_progress) {
  return call(request, on_progress, kReceiveBytes);
}

Result<std::string> Client::call(const Request& request, FunctionRef<void(ProgressReport)> on_progress,
                                 size_t receive_bytes) {
  ASSIGN_OR_RETURN(const std::string line, encode_request(request));
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t count = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    // A server that refuses the connection has said why before it closed.
    if (count < 0) break;
    rest.remove_prefix(static_cast<size_t>(count));
  }
  ProgressReport told;
  const auto tell_again = [&] { on_progress(told); };
  while (true) {
    ASSIGN_OR_RETURN(const std::string answer, read_line(receive_bytes, tell_again));
    ASSIGN_OR_RETURN(ServerMessage message, decode_server_message(answer));
    if (const auto* progress = std::get_if<ProgressReport>(&message)) {
      told = *progress;
      on_progress(told);
    } else if (auto* error = std::get_if<Error>(&message)) {
      return tl::unexpected(std::move(*error));
    } else {
      return std::get<ResultText>(std::move(message)).text;
    }
  }
}

Result<std::string> Client::call(const Request& request) {
  return call(request, [](ProgressReport /*report*/) {});
}

Result<net::OwnedFd> Client::start_nbd() && {
  // What comes behind the answer is NBD already, so not a byte more is taken.
  RETURN_IF_ERROR(call(NbdRequest{}, [](ProgressReport /*report*/) {}, 1));
  return std::move(socket_);
}

Result<std::string> Client::read_line(size_t receive_bytes, FunctionRef<void()> on_wait) {
  std::array<char, kReceiveBytes> bytes{};
  while (true) {
    if (auto line = lines_.next()) return std::move(*line);
    pollfd readable{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&readable, 1, kWaitMs);
    if (ready == 0 || (ready < 0 && errno == EINTR)) {
      on_wait();
      continue;
    }
    const ssize_t count = ::recv(socket_.get(), bytes.data(), receive_bytes, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return server_gone();
    lines_.append({bytes.data(), static_cast<size_t>(count)});
  }
}

Result<net::OwnedFd> connect_control_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return fail(Errc::invalid, fmt::format("the path {} is too long for a Unix socket", path));
  }
  path.copy(address.sun_path, path.size());
  net::OwnedFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail(Errc::io, fmt::format("cannot make a socket: {}", std::strerror(errno)));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
    return socket;
  const int error = errno;
  const Errc code = error == ENOENT || error == ENOTDIR        ? Errc::not_found
                    : error == ECONNREFUSED || error == EAGAIN ? Errc::unavailable
                    : error == EACCES || error == EPERM        ? Errc::permission
                                                               : Errc::io;
  return fail(code, fmt::format("cannot reach a server at {}: {}", path, std::strerror(error)));
}

}  // namespace fdbnbd::control
