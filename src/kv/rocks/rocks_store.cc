#include "kv/rocks/rocks_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <rocksdb/convenience.h>
#include <rocksdb/env.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <vector>

#include "base/log.h"
#include "kv/rocks/rocks_config.h"
#include "kv/rocks/rocks_errors.h"
#include "kv/rocks/store_listener.h"

namespace fdbnbd::kv {

namespace {

namespace fs = std::filesystem;

constexpr mode_t kDirectoryMode = 0700;

// Of the disk, to open a store.
constexpr uint64_t kMinFreeBytes = 4 * limits::kMiB;
// States that a snapshot may turn out to be: those of the last moments.
constexpr size_t kMaxPublished = 64;

Errc errc_of_errno(int error) {
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
      return Errc::permission;
    case ENOENT:
      return Errc::not_found;
    case ENOSPC:
    case EDQUOT:
      return Errc::no_space;
    case EWOULDBLOCK:
      return Errc::busy;
    case ENOTDIR:
      return Errc::invalid;
    default:
      return Errc::io;
  }
}

tl::unexpected<Error> fail_errno(std::string_view path, int error) {
  return fail(errc_of_errno(error), fmt::format("store {}: {}", path, std::strerror(error)));
}

Result<FileDescriptor> open_directory(const RocksOptions& options) {
  if (options.create_if_missing && mkdir(options.path.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
    if (errno == ENOENT)
      return fail(Errc::not_found,
                  fmt::format("store {}: the parent directory does not exist", options.path));
    return fail_errno(options.path, errno);
  }
  FileDescriptor directory(::open(options.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return fail_errno(options.path, errno);
  if (access(options.path.c_str(), R_OK | W_OK | X_OK) != 0) return fail_errno(options.path, errno);
  if (flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return fail(Errc::busy, fmt::format("store {}: another process has it open", options.path));
    // Some file systems have no such locks; RocksDB's own lock file is left.
    log::debug("store {}: cannot lock the directory: {}", options.path, std::strerror(errno));
  }
  return directory;
}

// RocksDB makes a new store wherever it finds no CURRENT file, and removes what it takes for leftovers. Here
// that needs a directory without anything that could be data.
Result<void> check_contents(const RocksOptions& options) {
  std::error_code error;
  if (fs::exists(fs::path(options.path) / "CURRENT", error)) return {};
  bool is_empty = true;
  for (auto entry = fs::directory_iterator(options.path, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    const std::string extension = entry->path().extension();
    if (extension == ".sst" || extension == ".blob" || extension == ".log")
      return fail(Errc::corruption,
                  fmt::format("store {}: the file CURRENT is missing, but {} is there", options.path, name));
    // What a creation that was cut short leaves, and the server's own files.
    const bool expected = name == "LOCK" || name == "IDENTITY" || name.starts_with("LOG") ||
                          name.starts_with("MANIFEST-") || name.starts_with("OPTIONS-") ||
                          name == "SYNC_POINT" || name.starts_with("control.") || name == "lost+found" ||
                          extension == ".dbtmp";
    is_empty = is_empty && expected;
  }
  if (error) return fail_errno(options.path, error.value());
  if (!is_empty)
    return fail(Errc::invalid,
                fmt::format("{}: the directory is not empty and holds no store", options.path));
  if (!options.create_if_missing)
    return fail(Errc::not_found, fmt::format("store {}: there is none in this directory", options.path));
  return {};
}

// RocksDB (as Debian builds it, with its assertions) may end the process where it has no room for its first
// files or for what it writes out of an old log.
uint64_t space_to_open(const std::string& path) {
  std::error_code error;
  uint64_t needed_bytes = kMinFreeBytes;
  for (auto entry = fs::directory_iterator(path, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    std::error_code gone;
    if (entry->path().extension() != ".log") continue;
    const uintmax_t log_bytes = entry->file_size(gone);
    if (!gone) needed_bytes += log_bytes;
  }
  return needed_bytes;
}

Result<void> check_space(const std::string& path) {
  const uint64_t needed_bytes = space_to_open(path);
  std::error_code error;
  const fs::space_info space = fs::space(path, error);
  if (error) return fail_errno(path, error.value());
  if (space.available >= needed_bytes) return {};
  return fail(Errc::no_space,
              fmt::format("store {}: the disk has {} bytes left, and {} are needed to open it", path,
                          space.available, needed_bytes));
}

}  // namespace

RocksStore::RocksStore(const RocksOptions& options, FileDescriptor lock)
    : path_(options.path),
      memory_bytes_(options.memory_bytes),
      router_(options.key_prefix, options.bulk_tags),
      lock_(std::move(lock)),
      files_(std::make_shared<StoreFiles>(rocksdb::FileSystem::Default(), lock_)),
      env_(rocksdb::NewCompositeEnv(files_)),
      listener_(std::make_shared<StoreListener>()),
      sync_point_(options.path) {
  files_->before_torn([listener = listener_.get()] { listener->let_flushes_begin(); });
}

Result<std::unique_ptr<RocksStore>> RocksStore::open(const RocksOptions& options) {
  if (options.memory_bytes < limits::kMinRocksMemoryBytes)
    return fail(Errc::invalid, fmt::format("store {}: it needs at least {} bytes of memory", options.path,
                                           limits::kMinRocksMemoryBytes));
  ASSIGN_OR_RETURN(FileDescriptor lock, open_directory(options));
  RETURN_IF_ERROR(check_contents(options));
  RETURN_IF_ERROR(check_space(options.path));
  RETURN_IF_ERROR(SyncPoint::check_logs(options.path));
  std::unique_ptr<RocksStore> store(new RocksStore(options, std::move(lock)));

  StoreConfig config = make_store_config(options.memory_bytes);
  config.db.create_if_missing = options.create_if_missing;
  config.db.env = store->env_.get();
  config.db.listeners.push_back(store->listener_);
  const std::string doing = fmt::format("store {}", options.path);

  std::vector<std::string> present;
  const rocksdb::Status listed = rocksdb::DB::ListColumnFamilies(config.db, options.path, &present);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (const Family family : {Family::meta, Family::bulk})
    descriptors.emplace_back(family_name(family), config.families[static_cast<size_t>(family)]);
  if (listed.ok()) {
    for (const std::string& name : present)
      if (name != family_name(Family::meta) && name != family_name(Family::bulk))
        return fail(Errc::newer_format,
                    fmt::format("store {}: it has a part \"{}\" that this version does not know",
                                options.path, name));
  }

  rocksdb::DB* db = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  const rocksdb::Status opened = rocksdb::DB::Open(config.db, options.path, descriptors, &handles, &db);
  if (!opened.ok()) {
    Error error = error_of(opened, doing);
    // An existing store is never "not found": files of it are missing.
    if (error.code == Errc::not_found || error.code == Errc::invalid) error.code = Errc::corruption;
    if (opened.IsIOError() && opened.ToString().find("While lock file") != std::string::npos)
      return fail(Errc::busy, fmt::format("store {}: another process has it open", options.path));
    return tl::unexpected(std::move(error));
  }
  store->db_.reset(db);
  std::copy(handles.begin(), handles.end(), store->families_);
  store->listener_->watch(*store);
  store->files_->note_whole_records();
  store->publish(store->last_version());
  db->GetEnv()->LowerThreadPoolCPUPriority(rocksdb::Env::LOW);
  return store;
}

Result<void> RocksStore::sync_log() {
  ASSIGN_OR_RETURN(const SyncPoint::Position position, files_->sync());
  sync_point_.note(position);
  return {};
}

uint64_t RocksStore::bytes_needed_to_open() const {
  return space_to_open(path_);
}

void RocksStore::publish(Version version) {
  {
    const std::lock_guard lock(published_mutex_);
    const rocksdb::SequenceNumber sequence = db_->GetLatestSequenceNumber();
    if (!published_.empty() && published_.back().sequence == sequence) {
      published_.back().version = version;  // the write changed nothing
    } else {
      published_.push_back({sequence, version});
    }
    if (published_.size() > kMaxPublished) published_.pop_front();
  }
  last_version_.store(version, std::memory_order_release);
}

void RocksStore::stop_moving_values_if_damaged() {
  if (moving_values_stopped_ || !listener_->damage_found()) return;
  moving_values_stopped_ = true;
  const rocksdb::Status stopped =
      db_->SetOptions(family(Family::bulk), {{"enable_blob_garbage_collection", "false"}});
  if (!stopped.ok()) log::warning("store {}: {}", path_, stopped.ToString());
}

RocksStore::State RocksStore::take_snapshot() {
  while (true) {
    const rocksdb::Snapshot* const snapshot = db_->GetSnapshot();
    {
      const std::lock_guard lock(published_mutex_);
      for (const Published& published : published_)
        if (published.sequence == snapshot->GetSequenceNumber()) return {snapshot, published.version};
    }
    // A write is done and not published yet; it will be in a moment.
    db_->ReleaseSnapshot(snapshot);
    std::this_thread::yield();
  }
}

RocksStore::~RocksStore() {
  if (!db_) return;
  if (!sync_failed) {
    if (const Result<void> synced = sync_log(); !synced) log::error("{}", synced.error().what);
  }
  // The listener, which background work calls, uses the families.
  rocksdb::CancelAllBackgroundWork(db_.get(), true);
  for (rocksdb::ColumnFamilyHandle* const family : families_)
    if (family != nullptr) db_->DestroyColumnFamilyHandle(family);
  const rocksdb::Status closed = db_->Close();
  if (!closed.ok()) log::error("store {}: closing it failed: {}", path_, closed.ToString());
}

}  // namespace fdbnbd::kv
