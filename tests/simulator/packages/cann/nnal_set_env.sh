# Simulated by npuops: NNAL 8.1's environment script (facts: ascend-vendor.md 6), its guess of the C++ ABI included.
function get_cxx_abi_option() {
    cxx_abi=""
    for argument in "$@"; do
        case "$argument" in --cxx_abi=1) cxx_abi=1 ;; --cxx_abi=0) cxx_abi=0 ;; esac
    done
    if [[ "$cxx_abi" == "" ]]; then
        # Whichever python3 comes first on PATH is asked; one without torch means 1.
        if [[ "$(python3 -c 'import torch; print(torch.compiled_with_cxx11_abi())' 2>/dev/null || echo True)" == "True" ]]; then cxx_abi=1; else cxx_abi=0; fi
    fi
}

set_env_path="${BASH_SOURCE[0]}"
if [[ -n "$ZSH_VERSION" ]]; then set_env_path="$0"; fi

if [[ -f "$set_env_path" ]] && [[ "$set_env_path" =~ 'set_env.sh' ]]; then
    atb_path=$(cd "$(dirname "$set_env_path")"; pwd)
    get_cxx_abi_option "$@"
    export ATB_HOME_PATH="${atb_path}/latest/atb/cxx_abi_${cxx_abi}"
    export LD_LIBRARY_PATH=$ATB_HOME_PATH/lib:$ATB_HOME_PATH/examples:$ATB_HOME_PATH/tests/atbopstest:$LD_LIBRARY_PATH
    export PATH=$ATB_HOME_PATH/bin:$PATH
    export ATB_STREAM_SYNC_EVERY_KERNEL_ENABLE=0 ATB_STREAM_SYNC_EVERY_RUNNER_ENABLE=0 ATB_STREAM_SYNC_EVERY_OPERATION_ENABLE=0
    export ATB_OPSRUNNER_SETUP_CACHE_ENABLE=1 ATB_OPSRUNNER_KERNEL_CACHE_TYPE=3 ATB_OPSRUNNER_KERNEL_CACHE_LOCAL_COUNT=1
    export ATB_OPSRUNNER_KERNEL_CACHE_GLOABL_COUNT=5 ATB_OPSRUNNER_KERNEL_CACHE_TILING_SIZE=10240
    export ATB_WORKSPACE_MEM_ALLOC_ALG_TYPE=1 ATB_WORKSPACE_MEM_ALLOC_GLOBAL=0 ATB_COMPARE_TILING_EVERY_KERNEL=0
    export ATB_HOST_TILING_BUFFER_BLOCK_NUM=128 ATB_DEVICE_TILING_BUFFER_BLOCK_NUM=32 ATB_SHARE_MEMORY_NAME_SUFFIX=""
    export ATB_LAUNCH_KERNEL_WITH_TILING=1 ATB_MATMUL_SHUFFLE_K_ENABLE=1 ATB_RUNNER_POOL_SIZE=64
    export ASDOPS_HOME_PATH=$ATB_HOME_PATH ASDOPS_MATMUL_PP_FLAG=1 ASDOPS_LOG_LEVEL=ERROR ASDOPS_LOG_TO_STDOUT=0 ASDOPS_LOG_TO_FILE=1
    export ASDOPS_LOG_TO_FILE_FLUSH=0 ASDOPS_LOG_TO_BOOST_TYPE=atb ASDOPS_LOG_PATH=~ ASDOPS_TILING_PARSE_CACHE_DISABLE=0
    export LCCL_DETERMINISTIC=0 LCCL_PARALLEL=0
else
    echo "There is no 'set_env.sh' to import"
fi
