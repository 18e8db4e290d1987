#include "kv/rocks/store_files.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "kv/rocks/rocks_errors.h"

namespace fdbnbd::kv {

namespace fs = std::filesystem;

namespace {

// What an empty table takes, and more.
constexpr uint64_t kEmptyTableBytes = 16 * limits::kKiB;

// A file that is made when something is first appended to it. Used by one thread, as RocksDB's own files are.
class LateFile final : public rocksdb::FSWritableFile {
 public:
  LateFile(rocksdb::FileSystem& files, std::string path, const rocksdb::FileOptions& options)
      : files_(files), path_(std::move(path)), options_(options) {}

  using FSWritableFile::Append;
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* context) override {
    if (file_ == nullptr) {
      if (rocksdb::IOStatus made = files_.NewWritableFile(path_, options_, &file_, context); !made.ok())
        return made;
    }
    return file_->Append(data, options, context);
  }
  rocksdb::IOStatus Flush(const rocksdb::IOOptions& /*options*/,
                          rocksdb::IODebugContext* /*context*/) override {
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
    return file_ == nullptr ? rocksdb::IOStatus::OK() : file_->Sync(options, context);
  }
  rocksdb::IOStatus Close(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
    return file_ == nullptr ? rocksdb::IOStatus::OK() : file_->Close(options, context);
  }
  bool IsSyncThreadSafe() const override { return true; }
  uint64_t GetFileSize(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
    return file_ == nullptr ? 0 : file_->GetFileSize(options, context);
  }

 private:
  rocksdb::FileSystem& files_;
  const std::string path_;
  const rocksdb::FileOptions options_;
  std::unique_ptr<rocksdb::FSWritableFile> file_;
};

}  // namespace

// One log; any thread.
class LogFile {
 public:
  LogFile(std::string log_path, uint64_t log_number, std::unique_ptr<rocksdb::FSWritableFile> file)
      : path(std::move(log_path)), number(log_number), file_(std::move(file)) {}

  rocksdb::FSWritableFile& file() const { return *file_; }

  // Syncs what was appended before; nothing where that is done, or RocksDB has closed the file: it then has
  // synced it, or needs it no more.
  rocksdb::IOStatus sync() {
    const std::lock_guard lock(sync_mutex_);
    const uint64_t bytes = appended_bytes;
    if (!closed_ && synced_bytes_ < bytes) note_synced(file_->Sync(rocksdb::IOOptions(), nullptr), bytes);
    return sync_error_;
  }

  // For what RocksDB itself syncs. The first failure stays: a second sync succeeds, though the pages that
  // could not be written are lost.
  rocksdb::IOStatus note_synced(rocksdb::IOStatus synced, uint64_t bytes) {
    if (!synced.ok() && sync_error_.ok()) sync_error_ = synced;
    if (sync_error_.ok()) synced_bytes_ = std::max(synced_bytes_, bytes);
    return synced;
  }
  template <typename Sync>
  rocksdb::IOStatus synced_by_rocksdb(Sync sync) {
    const std::lock_guard lock(sync_mutex_);
    const uint64_t bytes = appended_bytes;
    return note_synced(sync(), bytes);
  }
  rocksdb::IOStatus close(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) {
    const std::lock_guard lock(sync_mutex_);
    closed_ = true;
    return file_->Close(options, context);
  }
  void note_sync_failed(const rocksdb::IOStatus& error) {
    const std::lock_guard lock(sync_mutex_);
    if (sync_error_.ok()) sync_error_ = error;
  }

  const std::string path;
  const uint64_t number;
  std::atomic<uint64_t> appended_bytes = 0;
  std::atomic<uint64_t> whole_bytes = 0;
  std::atomic<bool> torn = false;

 private:
  const std::unique_ptr<rocksdb::FSWritableFile> file_;
  std::mutex sync_mutex_;
  uint64_t synced_bytes_ = 0;     // guarded by sync_mutex_
  bool closed_ = false;           // guarded by sync_mutex_
  rocksdb::IOStatus sync_error_;  // guarded by sync_mutex_
};

// What RocksDB writes a log with.
class StoreFiles::WritableLog final : public rocksdb::FSWritableFileWrapper {
 public:
  WritableLog(StoreFiles& files, std::shared_ptr<LogFile> log)
      : FSWritableFileWrapper(&log->file()), files_(files), log_(std::move(log)) {}
  ~WritableLog() override { forget(); }

  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* context) override {
    return appended(data.size(), target()->Append(data, options, context));
  }
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           const rocksdb::DataVerificationInfo& verification,
                           rocksdb::IODebugContext* context) override {
    return appended(data.size(), target()->Append(data, options, verification, context));
  }
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
    return synced(log_->synced_by_rocksdb([&] { return target()->Sync(options, context); }));
  }
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
    return synced(log_->synced_by_rocksdb([&] { return target()->Fsync(options, context); }));
  }
  rocksdb::IOStatus RangeSync(uint64_t offset, uint64_t bytes, const rocksdb::IOOptions& options,
                              rocksdb::IODebugContext* context) override {
    rocksdb::IOStatus status = target()->RangeSync(offset, bytes, options, context);
    if (!status.ok()) {
      log_->note_sync_failed(status);
      // RocksDB does not append to it any more.
      log_->torn = true;
    }
    return synced(std::move(status));
  }
  rocksdb::IOStatus Close(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
    forget();
    return log_->close(options, context);
  }

 private:
  rocksdb::IOStatus synced(rocksdb::IOStatus status) {
    if (!status.ok()) files_.note_sync_failed(status);
    return status;
  }
  rocksdb::IOStatus appended(size_t bytes, rocksdb::IOStatus status) {
    if (status.ok()) {
      log_->appended_bytes += bytes;
    } else {
      log_->torn = true;
      files_.before_torn_();
    }
    return status;
  }
  void forget() { files_.forget(log_->path); }

  StoreFiles& files_;
  const std::shared_ptr<LogFile> log_;
};

StoreFiles::StoreFiles(const std::shared_ptr<rocksdb::FileSystem>& target, const FileDescriptor& directory)
    : FileSystemWrapper(target), directory_(directory) {}

StoreFiles::~StoreFiles() = default;

rocksdb::IOStatus StoreFiles::NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                                              rocksdb::IODebugContext* context) {
  rocksdb::IOStatus made = FileSystemWrapper::NewWritableFile(path, options, result, context);
  const std::optional<uint64_t> number = log_number_of(path);
  if (made.ok() && !number && fs::path(path).extension() == ".sst") {
    made = reserve(**result);
    if (!made.ok()) {
      result->reset();
      FileSystemWrapper::DeleteFile(path, rocksdb::IOOptions(), context).PermitUncheckedError();
    }
  }
  if (!number) return made;
  if (!made.ok()) *result = std::make_unique<LateFile>(*target(), path, options);
  auto log = std::make_shared<LogFile>(path, *number, std::move(*result));
  *result = std::make_unique<WritableLog>(*this, log);
  const std::lock_guard lock(mutex_);
  logs_.push_back(std::move(log));
  return rocksdb::IOStatus::OK();
}

rocksdb::IOStatus StoreFiles::reserve(rocksdb::FSWritableFile& table) const {
  rocksdb::IOStatus reserved = table.Allocate(0, kEmptyTableBytes, rocksdb::IOOptions(), nullptr);
  // Other failures: file systems that cannot.
  return reserved.IsNoSpace() ? reserved : rocksdb::IOStatus::OK();
}

rocksdb::IOStatus StoreFiles::DeleteFile(const std::string& path, const rocksdb::IOOptions& options,
                                         rocksdb::IODebugContext* context) {
  if (log_number_of(path)) forget(path);
  return FileSystemWrapper::DeleteFile(path, options, context);
}

void StoreFiles::forget(const std::string& path) {
  const std::lock_guard lock(mutex_);
  std::erase_if(logs_, [&path](const std::shared_ptr<LogFile>& log) { return log->path == path; });
}

void StoreFiles::note_sync_failed(const rocksdb::IOStatus& error) {
  const std::lock_guard lock(mutex_);
  if (sync_error_.ok()) sync_error_ = error;
}

bool StoreFiles::is_open(const LogFile& log) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(logs_.begin(), logs_.end(),
                     [&log](const std::shared_ptr<LogFile>& other) { return other.get() == &log; });
}

std::shared_ptr<LogFile> StoreFiles::newest() const {
  const std::lock_guard lock(mutex_);
  ASSERT(!logs_.empty());
  return logs_.back();
}

void StoreFiles::note_whole_records() {
  // Whoever makes another log in between does not append to it.
  const std::shared_ptr<LogFile> log = newest();
  log->whole_bytes = log->appended_bytes.load();
}

bool StoreFiles::is_torn() const {
  return newest()->torn;
}

Result<SyncPoint::Position> StoreFiles::sync() {
  std::vector<std::shared_ptr<LogFile>> logs;
  {
    const std::lock_guard lock(mutex_);
    if (!sync_error_.ok()) return tl::unexpected(error_of(sync_error_, "syncing the log"));
    ASSERT(!logs_.empty());
    logs = logs_;
  }
  const std::shared_ptr<LogFile>& newest_log = logs.back();
  // Taken before the sync: more may come meanwhile.
  const SyncPoint::Position position{.log_number = newest_log->number, .bytes = newest_log->whole_bytes};
  const bool newest_exists = newest_log->appended_bytes > 0;  // otherwise maybe
  for (const std::shared_ptr<LogFile>& log : logs) {
    if (const rocksdb::IOStatus synced = log->sync(); !synced.ok())
      return tl::unexpected(error_of(synced, fmt::format("syncing {}", log->path)));
    // What is in a file that somebody has removed nobody will find again.
    if (log->appended_bytes == 0) continue;
    const std::string name = fs::path(log->path).filename();
    if (faccessat(directory_.get(), name.c_str(), F_OK, 0) != 0 && errno == ENOENT && is_open(*log))
      return fail(Errc::io, fmt::format("syncing {}: it was removed", log->path));
  }
  if (named_ != newest_log) {
    if (fsync(directory_.get()) != 0)
      return fail(Errc::io,
                  fmt::format("syncing the directory of {}: {}", newest_log->path, std::strerror(errno)));
    if (newest_exists) named_ = newest_log;
  }
  return position;
}

}  // namespace fdbnbd::kv
