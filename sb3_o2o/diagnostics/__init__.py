"""Why a fine-tuning run fails: Q-values against returns, errors on both kinds of data, drift, and a picture of them."""

from sb3_o2o.diagnostics.diagnostic import DiagnosticsCallback
from sb3_o2o.diagnostics.drift import gaussian_kl, softmax_kl
from sb3_o2o.diagnostics.looking import DataDiagnostics, DriftDiagnostics, QValueDiagnostics
from sb3_o2o.diagnostics.measure import mean_q_and_td_error, policy_and_q_drift
from sb3_o2o.diagnostics.on_policy_values import on_policy_q_values, q_difference_to_online
from sb3_o2o.diagnostics.q_values import kendall_tau, mean_window_tau, normalized_difference, true_q_values
from sb3_o2o.diagnostics.reporting import read_diagnostics, report
from sb3_o2o.diagnostics.switch import SwitchDiagnostics
from sb3_o2o.networks import frozen_copy

__all__ = [
    "DataDiagnostics",
    "DiagnosticsCallback",
    "DriftDiagnostics",
    "QValueDiagnostics",
    "SwitchDiagnostics",
    "frozen_copy",
    "gaussian_kl",
    "kendall_tau",
    "mean_q_and_td_error",
    "mean_window_tau",
    "normalized_difference",
    "on_policy_q_values",
    "policy_and_q_drift",
    "q_difference_to_online",
    "read_diagnostics",
    "report",
    "softmax_kl",
    "true_q_values",
]
