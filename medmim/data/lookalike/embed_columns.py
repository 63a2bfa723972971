"""Column names of the tables of EMBED, and the rows of its legend, as public code that reads the real ones has them."""

from medmim.data.lookalike.tables import columns

CLINICAL = columns(
    "GENDER_DESC ETHNICITY_DESC ETHNIC_GROUP_DESC MARITAL_STATUS_DESC ENCOUNTER_QTY empi_anon cohort_num "
    "loc_num tech_init init proccode desc vtype tissueden case age_at_study acc_anon study_date_anon sdate_anon "
    "first_3_zip total_L_find total_R_find "
    "massshape massmargin massdens calcfind calcdistri calcnumber otherfind implanfind consistent side size location "
    "depth distance numfind asses recc stable new changed "
    "type technique biopsite biop_loc bcomp path_loc diag_out surgery lymphsurg surg_loc pocomp ltcomp bside "
    "path1 path2 path3 path4 path5 path6 path7 path8 path9 path10 concord hgrade tnmpt tnmpn tnmm tnmdesc tnmr stage "
    "loc bdepth bdistance focality nfocal specsize specsize2 specsize3 dcissize invsize superior inferior anterior "
    "posterior medial lateral specinteg specnum specembed est estp her2 fish ki67 extracap methodevl snode_rem "
    "node_rem node_pos macrometa micrometa isocell largedp eic procdate_anon pdate_anon path_group path_severity "
    "spare1 spare2 spare3 spare4 spare5 spare6"  # the real table has at least 116 columns; these names are ours
)
CLINICAL_REDUCED = columns(
    "empi_anon acc_anon cohort_num study_date_anon desc numfind side bside asses tissueden path_severity procdate_anon "
    "age_at_study RACE_DESC ETHNIC_GROUP_DESC MARITAL_STATUS_DESC GENDER_DESC first_3_zip"
)
METADATA_REDUCED = columns(
    "Manufacturer ManufacturerModelName PatientSex ProtocolName SeriesDescription SeriesNumber SeriesTime "
    "StudyDescription StudyID ViewPosition WindowCenter WindowWidth has_pix_array category VOILUTFunction "
    "WindowCenterWidthExplanation empi_anon acc_anon study_date_anon cohort_num anon_dicom_path ImageLateralityFinal "
    "FinalImageType spot_mag ROI_coords SRC_DST match_level num_roi"
)
TAGS = columns(  # of the metadata table, beside those of the reduced one; most are blank here
    "png_path png_filename SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PhotometricInterpretation "
    "PresentationIntentType PresentationLUTShape RescaleIntercept RescaleSlope RescaleType ImageLaterality "
    "Laterality PatientOrientation ImagerPixelSpacing PixelSpacing StudyTime AcquisitionTime ContentTime "
    "AcquisitionNumber InstanceNumber AcquisitionDeviceProcessingCode AcquisitionDeviceProcessingDescription "
    "AnatomicRegionSequence AnodeTargetMaterial BodyPartExamined BodyPartThickness BreastImplantPresent "
    "BurnedInAnnotation CollimatorLeftVerticalEdge CollimatorLowerHorizontalEdge CollimatorRightVerticalEdge "
    "CollimatorShape CollimatorUpperHorizontalEdge CompressionForce ContentDate DerivationDescription "
    "DetectorActiveDimensions DetectorActiveOrigin DetectorActiveShape DetectorActiveTime DetectorBinning "
    "DetectorConditionsNominalFlag DetectorConfiguration DetectorDescription DetectorElementPhysicalSize "
    "DetectorElementSpacing DetectorID DetectorManufacturerName DetectorMode DetectorPrimaryAngle "
    "DetectorSecondaryAngle DetectorTemperature DetectorTimeSinceLastExposure DetectorType DeviceSerialNumber "
    "DistanceSourceToDetector DistanceSourceToEntrance DistanceSourceToPatient EntranceDose EntranceDoseInmGy "
    "EstimatedRadiographicMagnificationFactor Exposure ExposureControlMode ExposureControlModeDescription "
    "ExposureInuAs ExposureStatus ExposureTime ExposureTimeInuS ExposuresOnDetectorSinceLastCalibration "
    "FieldOfViewDimensions FieldOfViewHorizontalFlip FieldOfViewOrigin FieldOfViewRotation FieldOfViewShape "
    "FilterMaterial FilterThicknessMaximum FilterThicknessMinimum FilterType FocalSpots Grid GridFocalDistance "
    "HalfValueLayer ImageComments ImageType ImplementationVersionName InstitutionName KVP LargestImagePixelValue "
    "LossyImageCompression LossyImageCompressionRatio OrganDose OrganExposed PartialView PatientAge "
    "PixelAspectRatio PixelIntensityRelationship PixelIntensityRelationshipSign PixelPaddingValue "
    "PositionerPrimaryAngle PositionerType QualityControlImage RectificationType RelativeXRayExposure "
    "RequestedProcedureDescription Sensitivity SmallestImagePixelValue SoftwareVersions SpecificCharacterSet "
    "StationName TableType XRayTubeCurrent XRayTubeCurrentInuA 0_ViewCodeSequence_CodeValue "
    "0_ViewCodeSequence_CodingSchemeDesignator 0_ViewCodeSequence_CodeMeaning "
    "0_ViewCodeSequence_0_ViewModifierCodeSequence_CodeMeaning 0_AnatomicRegionSequence_CodeMeaning "
)
LEGEND_HEADER = ("Header in export", "Discription", "Code", "Meaning")
LEGEND = (
    ("asses", "BI-RADS assessment", "A", "Additional evaluation"),
    ("asses", "BI-RADS assessment", "N", "Negative"),
    ("asses", "BI-RADS assessment", "B", "Benign"),
    ("asses", "BI-RADS assessment", "P", "Probably benign"),
    ("asses", "BI-RADS assessment", "S", "Suspicious"),
    ("asses", "BI-RADS assessment", "M", "Highly suggestive of malignancy"),
    ("asses", "BI-RADS assessment", "K", "Known biopsy proven malignancy"),
    ("asses", "BI-RADS assessment", "X", "No Assessment"),
    ("side", "Side of the finding", "L", "Left"),
    ("side", "Side of the finding", "R", "Right"),
    ("side", "Side of the finding", "B", "Bilateral"),
    ("tissueden", "Tissue density", "1", "Almost entirely fat"),
    ("tissueden", "Tissue density", "2", "Scattered fibroglandular densities"),
    ("tissueden", "Tissue density", "3", "Heterogeneously dense"),
    ("tissueden", "Tissue density", "4", "Extremely dense"),
    ("tissueden", "Tissue density", "5", "Normal male"),
)
